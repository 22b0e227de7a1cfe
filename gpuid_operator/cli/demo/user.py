"""The demo in a cluster of the user: it installs simulated GPUs, and removes all that it made."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from gpuid_operator.api.crd import crd_manifests
from gpuid_operator.api.meta import API_VERSION, INVENTORY_PLURAL
from gpuid_operator.cli.demo import preflight, simulated
from gpuid_operator.cli.demo.console import DemoError, say, undisturbed
from gpuid_operator.cli.demo.guide import user_guide
from gpuid_operator.cli.demo.operator_process import run_operator
from gpuid_operator.cli.demo.results import example, results_of, show, wait_for_results
from gpuid_operator.cli.demo.simulated import CRDS_CREATED, NAMESPACE
from gpuid_operator.cli.demo.user_cluster import UserCluster, kubeconfig_with
from gpuid_operator.cli.plugin_kubeconfig import KubeconfigNames
from gpuid_operator.localcluster.ports import free_ports
from gpuid_operator.operator.settings import Settings

_CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_INVENTORIES: Final = f"/apis/{API_VERSION}/{INVENTORY_PLURAL}"
_NODES: Final = "/api/v1/nodes"
_NAMESPACES: Final = "/api/v1/namespaces"
_PODS: Final = f"{_NAMESPACES}/{NAMESPACE}/pods?labelSelector={simulated.POD_LABELS}"
_CONFIG_MAPS: Final = f"{_NAMESPACES}/{NAMESPACE}/configmaps"
_DAEMON_SETS: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_SERVED_WITHIN: Final = 60.0
_PODS_WITHIN: Final = 300.0
"""Seconds for the pods: every node pulls the image."""
_GONE_WITHIN: Final = 120.0
_POLL: Final = 0.5


class UserDemo:
    """One run of the demo in the cluster of a context."""

    def __init__(self, *, context: str, image: str, ask: bool) -> None:
        self._context = context
        self._image = image
        self._ask = ask
        self.shown = False
        """Whether the table was printed."""

    def __call__(self, *, once: bool) -> bool:
        """Run until Ctrl-C or, with `once`, until the table; return whether all nodes are Ready.

        Raises DemoError, KeyboardInterrupt, click.Abort.
        """
        preflight.require_context(self._context, known=KubeconfigNames.read(None).contexts)
        with UserCluster(self._context) as cluster:
            nodes, leftover = self._check(cluster)
            crds = [one for one in crd_manifests() if cluster.find(_crd_path(one)) is None]
            self._announce(cluster, nodes=nodes, crds=crds)
            with (
                _Installation(cluster, image=self._image, crds=crds, leftover=leftover) as made,
                _folder() as folder,
            ):
                ready = made.wait_for_pods(nodes)
                environment = _environment(self._context, folder)
                with run_operator(folder, environment) as operator:
                    results = wait_for_results(
                        lambda: results_of(ready, cluster.get(_INVENTORIES)["items"]), operator
                    )
                    command = f"kubectl --context {self._context} get gpuinventory"
                    good = show(command, cluster.table(_INVENTORIES), results)
                    self.shown = True
                    if not once:
                        node = example(results)
                        pod = made.pod_on(node) if node else None
                        click.echo(user_guide(self._context, node=node, pod=pod, log=operator.log))
                        operator.wait()
        return good

    def _check(self, cluster: UserCluster) -> tuple[list[str], bool]:
        """The nodes that get simulated GPUs, and whether an earlier demo left something."""
        cluster.get("/version")  # whether it responds at all
        missing = [
            right
            for right in preflight.RIGHTS
            if not cluster.create(_REVIEWS, right.review)["status"]["allowed"]
        ]
        preflight.require_rights(self._context, missing)
        nodes = cluster.get(_NODES)["items"]
        namespace = cluster.find(f"{_NAMESPACES}/{NAMESPACE}")
        leftover = preflight.is_leftover(self._context, namespace)
        if not leftover:
            inventories = (cluster.find(_INVENTORIES) or {"items": []})["items"]
            names = [one["metadata"]["name"] for one in inventories]
            preflight.require_no_operator(self._context, inventories=names, nodes=nodes)
        return preflight.usable_nodes(self._context, nodes), leftover

    def _announce(
        self, cluster: UserCluster, *, nodes: list[str], crds: list[dict[str, Any]]
    ) -> None:
        """Say what the demo creates, and ask."""
        number = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}"
        plurals = ", ".join(one["spec"]["names"]["plural"] for one in crds)
        say(f"In the cluster of context {self._context} ({cluster.server}), the demo creates:")
        if crds:
            say(f"  - the CustomResourceDefinitions {plurals}")
        say(
            f"  - the namespace {NAMESPACE}, with a pod of the image {self._image} on {number},"
            f" which answers nvidia-smi with {simulated.GPUS} simulated GPUs"
        )
        say("  - a GPUInventory and labels gpuid.github.com/… for each of these nodes")
        say("The operator runs on this machine, with your rights. At its end, the demo removes all")
        say("of this.")
        if self._ask:
            click.confirm("Continue?", abort=True, err=True)


class _Installation:
    """What the demo made in the cluster. As a context, it removes that at its end."""

    def __init__(
        self, cluster: UserCluster, *, image: str, crds: list[dict[str, Any]], leftover: bool
    ) -> None:
        self._cluster = cluster
        self._image = image
        self._crds = crds
        self._leftover = leftover

    def __enter__(self) -> _Installation:
        try:
            self._install()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _install(self) -> None:
        cluster = self._cluster
        if self._leftover:
            say("an earlier demo was not removed; this one takes its place")
            old = cluster.get(f"{_NAMESPACES}/{NAMESPACE}")["metadata"].get("annotations") or {}
            if old.get(CRDS_CREATED) == "true":
                self._crds = crd_manifests()
        say("creating the simulated GPUs")
        cluster.apply(_NAMESPACES, simulated.namespace(crds_created=bool(self._crds)))
        for manifest in self._crds:
            cluster.apply(_CRDS, manifest)
        cluster.apply(_CONFIG_MAPS, simulated.config_map())
        cluster.apply(_DAEMON_SETS, simulated.daemon_set(self._image))
        _wait(
            "the API server to serve gpuinventories",
            lambda: cluster.find(_INVENTORIES) is not None,
            within=_SERVED_WITHIN,
        )

    def wait_for_pods(self, nodes: list[str]) -> list[str]:
        """Wait for a ready pod on each of the nodes; returns their names. Raises DemoError."""
        pods: list[dict[str, Any]] = []
        said = -1

        def ready() -> bool:
            nonlocal pods, said
            pods = self._pods()
            for pod in pods:
                context = self._cluster.context
                if problem := preflight.image_problem(pod, image=self._image, context=context):
                    raise DemoError(problem)
            count = len(_ready_nodes(pods))
            if count != said:
                say(f"  {count} of {len(nodes)} pods are ready")
                said = count
            return set(nodes) <= set(_ready_nodes(pods))

        _wait(
            f"the pods of the simulated GPUs (see kubectl --context {self._cluster.context}"
            f" describe pods -n {NAMESPACE})",
            ready,
            within=_PODS_WITHIN,
        )
        return sorted(_ready_nodes(pods))

    def pod_on(self, node: str) -> str:
        """The name of the pod on a node."""
        return next(
            str(pod["metadata"]["name"])
            for pod in self._pods()
            if pod["spec"].get("nodeName") == node
        )

    def _pods(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self._cluster.get(_PODS)["items"]
        return items

    def _remove(self) -> None:
        """Remove everything. What fails is said with the command that does it, and not raised."""
        with undisturbed():
            say("removing what the demo created")
            context = f"kubectl --context {self._cluster.context}"
            names = [manifest["metadata"]["name"] for manifest in self._crds]
            for step, command in (
                (self._remove_inventories, f"{context} delete gpuinventory --all"),
                (self._remove_crds, f"{context} delete crd {' '.join(names)}"),
                (self._remove_labels, f"{context} label nodes --all gpuid.github.com/…-"),
                (self._remove_namespace, f"{context} delete namespace {NAMESPACE}"),
            ):
                try:
                    step()
                except DemoError as error:
                    say(f"{error}; remove the rest with `{command}`")

    def _remove_inventories(self) -> None:
        for item in (self._cluster.find(_INVENTORIES) or {"items": []})["items"]:
            self._cluster.delete(f"{_INVENTORIES}/{item['metadata']['name']}")

    def _remove_crds(self) -> None:
        for manifest in self._crds:
            # A kube-apiserver that was never asked for the objects of a kind may fail to list them
            # for the deletion, and then does not try again for minutes.
            plural = manifest["metadata"]["name"].partition(".")[0]
            self._cluster.find(f"/apis/{API_VERSION}/{plural}")
            self._cluster.delete(_crd_path(manifest))
        _wait(
            "the CustomResourceDefinitions to go",
            lambda: all(self._cluster.find(_crd_path(one)) is None for one in self._crds),
            within=_GONE_WITHIN,
        )

    def _remove_labels(self) -> None:
        for node in self._cluster.get(_NODES)["items"]:
            if labels := preflight.our_labels(node):
                patch = {"metadata": {"labels": dict.fromkeys(labels)}}
                self._cluster.patch(f"{_NODES}/{node['metadata']['name']}", patch)

    def _remove_namespace(self) -> None:
        path = f"{_NAMESPACES}/{NAMESPACE}"
        self._cluster.delete(path)
        _wait(
            f"the namespace {NAMESPACE} to go",
            lambda: self._cluster.find(path) is None,
            within=_GONE_WITHIN,
        )


def _ready_nodes(pods: list[dict[str, Any]]) -> list[str]:
    """The nodes of the ready pods."""
    return [
        pod["spec"]["nodeName"]
        for pod in pods
        for one in (pod.get("status") or {}).get("conditions") or ()
        if (one["type"], one["status"]) == ("Ready", "True")
    ]


def _crd_path(manifest: dict[str, Any]) -> str:
    return f"{_CRDS}/{manifest['metadata']['name']}"


def _wait(what: str, condition: Callable[[], bool], *, within: float) -> None:
    until = time.monotonic() + within
    while not condition():
        if time.monotonic() > until:
            raise DemoError(f"gave up waiting for {what} after {within:g} s")
        time.sleep(_POLL)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for the operator's log. It stays if the demo failed."""
    folder = Path(tempfile.mkdtemp(prefix="gpuid-demo-"))
    try:
        yield folder
    except Exception:
        say(f"the operator's log is in {folder}")
        raise
    except BaseException:  # Ctrl-C
        shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(context: str, folder: Path) -> dict[str, str]:
    """That of the user, which login programs need, without the settings of an operator."""
    settings = {field.upper() for field in Settings.model_fields if not field.startswith("aws_")}
    environment = {key: text for key, text in os.environ.items() if key not in settings}
    return environment | {
        "KUBECONFIG": kubeconfig_with(context, folder),
        "NAMESPACE": NAMESPACE,
        "POD_NAMESPACE": NAMESPACE,
        "CLUSTER_NAME": "demo",
        "SERVER_PORT": str(free_ports(1)[0]),
    }
