"""Whether the demo can run in a cluster of the user: decisions about what its API server has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gpuid_operator.api.meta import GROUP, INVENTORY_PLURAL, POLICY_PLURAL
from gpuid_operator.cli.demo.console import DemoError
from gpuid_operator.cli.demo.simulated import DEMO, MANAGED_BY, NAMESPACE, node_terms

_EXTENSIONS: Final = "apiextensions.k8s.io"
_TOLERATED: Final = "node.kubernetes.io/"
"""Prefix of the taints that the pods of every DaemonSet tolerate."""
_MANAGE: Final = ("get", "create", "patch", "delete")
_SHOWN: Final = 5
_NO_IMAGE: Final = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")


@dataclass(frozen=True)
class Right:
    """A right that the demo needs."""

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        name = ".".join(filter(None, (self.resource, self.group)))
        return f"{self.verb} {'/'.join(filter(None, (name, self.subresource)))}"

    @property
    def review(self) -> dict[str, Any]:
        """The SelfSubjectAccessReview that asks for it."""
        attributes = {key: text for key, text in vars(self).items() if text}
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }


RIGHTS: Final = (
    *(Right(verb, "customresourcedefinitions", _EXTENSIONS) for verb in _MANAGE),
    *(Right(verb, "namespaces") for verb in _MANAGE),
    *(Right(verb, "configmaps", namespace=NAMESPACE) for verb in ("create", "patch")),
    *(Right(verb, "daemonsets", "apps", namespace=NAMESPACE) for verb in ("create", "patch")),
    *(Right(verb, "pods", namespace=NAMESPACE) for verb in ("list", "watch")),
    *(Right(verb, "pods", subresource="exec", namespace=NAMESPACE) for verb in ("get", "create")),
    *(Right(verb, "nodes") for verb in ("get", "list", "patch")),
    *(Right(verb, INVENTORY_PLURAL, GROUP) for verb in ("list", "watch", *_MANAGE)),
    Right("patch", INVENTORY_PLURAL, GROUP, subresource="status"),
    *(Right(verb, POLICY_PLURAL, GROUP) for verb in ("list", "watch")),
)
"""What an administrator may: the demo needs them to install, to run the operator, and to remove."""


def require_context(context: str, *, known: Sequence[str]) -> None:
    """Raise DemoError if the kubeconfig has no such context."""
    if context in known:
        return
    if not known:
        raise DemoError(
            f"there is no context {context}: the kubeconfig has none at all; set KUBECONFIG, or"
            " create a cluster (`kind create cluster` makes the context kind-kind)"
        )
    raise DemoError(
        f"there is no context {context} in the kubeconfig; choose one of {', '.join(known)}"
    )


def require_rights(context: str, missing: Sequence[Right]) -> None:
    """Raise DemoError if the user lacks rights."""
    if missing:
        raise DemoError(
            f"your user in context {context} may not: {', '.join(map(str, missing))}. Use a context"
            " with the rights of an administrator (ClusterRole cluster-admin)"
        )


def node_problem(node: Mapping[str, Any]) -> str | None:
    """Why a simulated device plugin cannot run on a node; None if it can."""
    meta, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    conditions = status.get("conditions") or ()
    if not any(one["type"] == "Ready" and one["status"] == "True" for one in conditions):
        return "is not Ready"
    labels = meta.get("labels") or {}
    if not all(_meets(labels, term) for term in node_terms()):
        return "has a GPU of its own, according to its labels"
    if labels.get("kubernetes.io/os", "linux") != "linux":
        return "does not run Linux"
    for taint in spec.get("taints") or ():
        lasting = taint["effect"] in ("NoSchedule", "NoExecute")
        if lasting and not taint["key"].startswith(_TOLERATED):
            return f"has the taint {taint['key']}"
    return None


def _meets(labels: Mapping[str, str], term: Mapping[str, Any]) -> bool:
    """Whether labels meet an expression of deployment/simulated, NotIn or DoesNotExist."""
    if term["operator"] == "DoesNotExist":
        return term["key"] not in labels
    return labels.get(term["key"]) not in term["values"]


def usable_nodes(context: str, nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the nodes that get simulated GPUs. Raises DemoError if there is none."""
    problems = {node["metadata"]["name"]: node_problem(node) for node in nodes}
    usable = sorted(name for name, problem in problems.items() if problem is None)
    if usable:
        return usable
    if not problems:
        raise DemoError(f"the cluster of context {context} has no nodes; add one")
    listed = [f"{name} {problem}" for name, problem in sorted(problems.items())]
    more = f", and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    raise DemoError(
        f"no node of context {context} can run the simulated GPUs: {'; '.join(listed[:_SHOWN])}"
        f"{more}. Look at them with `kubectl --context {context} get nodes`, or use another cluster"
    )


def require_no_operator(
    context: str, *, inventories: Sequence[str], nodes: Iterable[Mapping[str, Any]]
) -> None:
    """Raise DemoError if this operator, or gpuid, works in the cluster already."""
    if inventories:
        raise DemoError(
            f"the cluster of context {context} has {len(inventories)} GPUInventory objects already,"
            f" so the demo leaves it alone. Look at them with `kubectl --context {context} get"
            " gpuinventory`, or use another cluster"
        )
    labelled = [node["metadata"]["name"] for node in nodes if our_labels(node)]
    if labelled:
        raise DemoError(
            f"nodes of context {context} have labels {GROUP}/… already ({', '.join(labelled[:3])}):"
            " gpuid or gpuid-operator works there, and the demo would remove them; use another"
            " cluster"
        )


def our_labels(node: Mapping[str, Any]) -> list[str]:
    """The labels that the operator writes on a Node."""
    return [key for key in node["metadata"].get("labels") or {} if key.startswith(f"{GROUP}/")]


def is_leftover(context: str, namespace: Mapping[str, Any] | None) -> bool:
    """Whether the namespace is of a demo that was killed. Raises DemoError if somebody else made
    it."""
    if namespace is None:
        return False
    if "deletionTimestamp" in namespace["metadata"]:
        raise DemoError(
            f"the namespace {NAMESPACE} of context {context} is being deleted; try again in a"
            " minute"
        )
    if (namespace["metadata"].get("labels") or {}).get(MANAGED_BY) != DEMO:
        raise DemoError(
            f"the cluster of context {context} has a namespace {NAMESPACE} that no demo created;"
            f" delete it with `kubectl --context {context} delete namespace {NAMESPACE}`, or use"
            " another cluster"
        )
    return True


def image_problem(pod: Mapping[str, Any], *, image: str, context: str) -> str | None:
    """What to do if the kubelet failed to get the image of a pod."""
    for seen in (pod.get("status") or {}).get("containerStatuses") or ():
        waiting = (seen.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _NO_IMAGE:
            said = " ".join(str(waiting.get("message") or waiting["reason"]).split())[:300]
            return (
                f"node {pod['spec'].get('nodeName')} of context {context} cannot pull the image"
                f" {image}: {said}. Load it into the nodes (`kind load docker-image {image}`,"
                f" `minikube image load {image}`), or choose an image with python3 that they can"
                " pull (--image)"
            )
    return None
