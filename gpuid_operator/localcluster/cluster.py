"""A local cluster: real control plane, simulated GPU nodes, and perhaps one real node.

cluster = LocalCluster.up(Path("/tmp/c"), nodes=3)
cluster.kubectl("get", "nodes")
cluster.write_smi("gpu-node-0000", generate("h100", node="another"))
cluster.restart_plugin("gpu-node-0000")
cluster.down()
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from gpuid_operator.api.crd import crd_manifests
from gpuid_operator.localcluster import binaries as programs
from gpuid_operator.localcluster import controlplane, nodes, processes, realnode
from gpuid_operator.localcluster.binaries import Binaries
from gpuid_operator.localcluster.client import ApiClient, Request
from gpuid_operator.localcluster.controlplane import ControlPlane
from gpuid_operator.localcluster.errors import LocalClusterError
from gpuid_operator.localcluster.hardware import Hardware
from gpuid_operator.localcluster.layout import Layout, State
from gpuid_operator.localcluster.ports import free_ports
from gpuid_operator.localcluster.realnode import RealNode
from gpuid_operator.localcluster.simulation import NodeSpec, Simulation
from gpuid_operator.localcluster.smi import generate
from gpuid_operator.localcluster.smi_models import MODELS
from gpuid_operator.localcluster.waiting import wait_for

Progress = Callable[[str], None]
DEFAULT_NODES: Final = 3


class LocalCluster:
    """One cluster, known by its directory. Made by `up` or `attach`."""

    def __init__(self, *, layout: Layout, state: State) -> None:
        self._layout = layout
        self._state = state

    @classmethod
    def up(
        cls,
        directory: Path,
        *,
        nodes: int | None = None,
        gpu: str = "h100",
        smi: Sequence[Path] = (),
        real_node: bool = False,
        node_object_bytes: int | None = None,
        progress: Progress = lambda _: None,
    ) -> LocalCluster:
        """Start a cluster under `directory`; returns when its nodes and their pods are ready.

        It runs until `down`, beyond the end of the calling process. With `smi`, the simulated nodes
        get copies of these files in turn, one node per file unless `nodes` says otherwise; else
        each has generated GPUs of the model `gpu`. `node_object_bytes` is the size to which Node
        objects are filled. Raises LocalClusterError, having ended what it started.
        """
        layout = Layout(directory.resolve())
        if gpu not in MODELS:
            raise LocalClusterError(f"GPU model {gpu!r} is not one of {', '.join(MODELS)}")
        outputs = [path.read_bytes() for path in smi]
        count = len(outputs) or DEFAULT_NODES if nodes is None else nodes
        if processes.running(layout):
            raise LocalClusterError(
                f"a cluster runs in {layout.directory} already: end it with 'gpuid-operator "
                f"cluster down --dir {layout.directory}' or choose another directory"
            )
        if real_node:
            realnode.check()
        layout.claim()
        _clear(layout)
        binaries = programs.resolve(real_node=real_node, progress=progress)
        apiserver, etcd, peer, kwok, simnode = free_ports(5)
        host = realnode.service_address() if real_node else "127.0.0.1"
        state = State(
            host=host,
            service_range=f"{host[:-1]}0/24" if real_node else "10.96.0.0/24",
            apiserver_port=443 if real_node else apiserver,
            etcd_port=etcd,
            etcd_peer_port=peer,
            kwok_port=kwok,
            simnode_port=simnode,
            gpu=gpu,
            node_object_bytes=node_object_bytes,
            real_node=realnode.NAME if real_node else None,
        )
        cluster = cls(layout=layout, state=state)
        cluster._binaries = binaries
        try:
            cluster._start(cluster._specs(count, outputs), count, progress)
        except BaseException:  # Ctrl-C too must leave nothing behind
            cluster.down()
            raise
        return cluster

    @classmethod
    def attach(cls, directory: Path) -> LocalCluster:
        """The cluster that an earlier `up` left running under `directory`."""
        layout = Layout(directory.resolve())
        try:
            return cls(layout=layout, state=State.load(layout))
        except FileNotFoundError:
            raise LocalClusterError(
                f"no cluster in {layout.directory}: start one with "
                f"'gpuid-operator cluster up --dir {layout.directory}'"
            ) from None

    @property
    def directory(self) -> Path:
        return self._layout.directory

    @property
    def kubeconfig(self) -> Path:
        """Of the administrator; `.token` and `.ca_file` are what stands in it."""
        return self._layout.kubeconfig

    @property
    def server(self) -> str:
        return self._state.server

    @property
    def token(self) -> str:
        return controlplane.token_file(self._layout, controlplane.ADMIN).read_text()

    @property
    def ca_file(self) -> Path:
        return self._layout.ca_file

    @property
    def audit_log(self) -> Path:
        """JSON lines at level Metadata: our group, nodes, pods/exec, events, leases, secrets.

        The user is `admin` for what comes through `.kubeconfig`; the servers have other names.
        """
        return self._layout.audit_log

    @property
    def node_names(self) -> list[str]:
        """The simulated nodes, sorted."""
        return sorted(path.name for path in self._layout.nodes.iterdir() if path.is_dir())

    @cached_property
    def client(self) -> ApiClient:
        """A plain client of the API server, as the administrator."""
        return controlplane.client_for(self._layout, self._state)

    def down(self) -> None:
        """End every process of the cluster; harmless where none is left.

        Logs, the audit log and the nodes' files stay for who wants to look.
        """
        down(self.directory)

    def restart_apiserver(self) -> None:
        """End the API server and start it again; returns when it is ready."""
        self.stop_apiserver()
        self.start_apiserver()

    def stop_apiserver(self) -> None:
        """End the API server alone, at once, as a crash would."""
        self._controlplane.stop_apiserver()

    def start_apiserver(self) -> None:
        self._controlplane.start_apiserver()

    def add_node(
        self,
        name: str,
        *,
        xml: str | bytes | None = None,
        provider_id: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Create a simulated node; returns when its target pod is ready.

        Without `xml` its GPUs are generated, the same for the same name.
        """
        content = generate(self._state.gpu, node=name) if xml is None else xml
        spec = NodeSpec(
            name=name,
            xml=content.encode() if isinstance(content, str) else content,
            instance_type=MODELS[self._state.gpu].instance_type,
            provider_id=provider_id,
            labels=labels,
        )
        self._simulation.create([spec])
        self._simulation.wait_pod(name)

    def delete_node(self, name: str) -> None:
        """Remove a simulated node with its pod and its files; returns when they are gone."""
        self._simulation.delete(name)

    def delete_pod(self, node: str) -> None:
        """Delete the node's target pod; returns when it is gone. Its DaemonSet makes another."""
        self._simulation.delete_pod(node)

    def wait_plugin(self, node: str) -> dict[str, Any]:
        """Wait for a ready target pod on the node, and return it."""
        return self._simulation.wait_pod(node)

    def restart_plugin(self, node: str) -> str:
        """Give the node's target container a new id; returns it once the pod's status shows it."""
        return self._simulation.restart_container(node)

    def stop_plugin(self, node: str) -> None:
        """The target container crashes: not ready, until `start_plugin`."""
        self._simulation.stop_container(node)

    def start_plugin(self, node: str) -> str:
        """The target container runs again, under a new id, which is returned."""
        return self._simulation.start_container(node)

    def smi_file(self, node: str) -> Path:
        """What the node's nvidia-smi prints; read at each run."""
        return Hardware(self._layout, node).smi_file

    def write_smi(self, node: str, xml: str | bytes) -> None:
        """Replace the node's hardware at once: no reader sees a part of it."""
        Hardware(self._layout, node).write_smi(xml)

    def set_behaviour(self, node: str, **behaviour: object) -> None:
        """Make the node's nvidia-smi misbehave: exit, stdout, stderr, delay, hang, missing.

        `stdout` stands in place of the XML; bytes that are not UTF-8 are given as surrogates.
        `delay` is in seconds. `hang` never ends. `missing`: the container has no nvidia-smi.
        """
        Hardware(self._layout, node).set_behaviour(**behaviour)

    def clear_behaviour(self, node: str) -> None:
        Hardware(self._layout, node).clear_behaviour()

    def exec_log(self, node: str) -> list[float]:
        """When the node's nvidia-smi was run (seconds since the epoch), oldest first."""
        return Hardware(self._layout, node).runs()

    @property
    def real_node_name(self) -> str:
        """Name of the real node, also the value of its label kubernetes.io/hostname."""
        if self._state.real_node is None:
            raise LocalClusterError(f"the cluster in {self.directory} was started without one")
        return self._state.real_node

    def import_image(self, tar: Path) -> None:
        """Make an image (as `images.build_image` writes it, or `docker save`) known to the real
        node; its pods use it with `imagePullPolicy: Never`."""
        self._real_node.import_image(tar)

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator; with `check`, a failure is a LocalClusterError."""
        command = [str(self._binaries["kubectl"]), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=input, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise LocalClusterError(
                f"'{' '.join(command)}' ended with {done.returncode}: {done.stderr.strip()}"
            )
        return done

    @cached_property
    def _binaries(self) -> Binaries:
        return programs.resolve(
            real_node=self._state.real_node is not None, progress=lambda _: None
        )

    @property
    def _controlplane(self) -> ControlPlane:
        return ControlPlane(layout=self._layout, state=self._state, binaries=self._binaries)

    @property
    def _simulation(self) -> Simulation:
        return Simulation(layout=self._layout, state=self._state, client=self.client)

    @property
    def _real_node(self) -> RealNode:
        return RealNode(layout=self._layout, client=self.client)

    def _specs(self, count: int, outputs: Sequence[bytes]) -> Iterator[NodeSpec]:
        gpu = self._state.gpu
        for index in range(count):
            name = nodes.node_name(index)
            yield NodeSpec(
                name=name,
                xml=outputs[index % len(outputs)] if outputs else generate(gpu, node=name).encode(),
                instance_type=MODELS[gpu].instance_type,
            )

    def _start(self, specs: Iterator[NodeSpec], count: int, progress: Progress) -> None:
        self._state.save(self._layout)
        progress(f"starting the control plane in {self.directory}")
        self._controlplane.prepare()
        self._controlplane.start()
        simulation = self._simulation
        simulation.start(self._binaries)
        for name in (nodes.TARGET_NAMESPACE, nodes.OPERATOR_NAMESPACE):
            self.client.send(Request("POST", "/api/v1/namespaces", nodes.namespace(name)))
        self._install_crds()
        progress(f"creating {count} simulated nodes")
        simulation.create(specs)
        simulation.create_device_plugin()
        simulation.wait_ready(count)
        if self._state.real_node:
            progress("starting the real node")
            self._real_node.start(self._binaries)
        progress(f"ready: {self.server}")

    def _install_crds(self) -> None:
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for manifest in crd_manifests():
            self.client.send(Request("POST", path, manifest))
            name = manifest["metadata"]["name"]

            def established(name: str = name) -> bool:
                conditions = self.client.get(f"{path}/{name}").get("status", {}).get("conditions")
                return any(
                    one["type"] == "Established" and one["status"] == "True"
                    for one in conditions or ()
                )

            wait_for(f"the API server to serve {name}", established, timeout=30)


def down(directory: Path) -> None:
    """End what `up` started under `directory`, also after a crash of any part of it.

    Only processes that the directory's files or their own environment name are ended. Repeated
    calls, and a directory that never held a cluster, are harmless.
    """
    layout = Layout(directory.resolve())
    # The data are thrown away, so nothing need be asked to end in order.
    processes.stop(layout, processes.running(layout), grace=0)
    processes.end_marked(layout)
    realnode.end(layout)
    if not layout.ours:
        return
    for path in (layout.etcd, layout.pki, layout.config, layout.bin, layout.run):
        shutil.rmtree(path, ignore_errors=True)
    for path in (layout.kubeconfig, layout.state):
        path.unlink(missing_ok=True)


def _clear(layout: Layout) -> None:
    """Remove what an earlier cluster in the same directory left."""
    down(layout.directory)
    for path in (layout.logs, layout.nodes):
        shutil.rmtree(path, ignore_errors=True)
    layout.audit_log.unlink(missing_ok=True)
