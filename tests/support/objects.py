"""API objects as a cluster has them, small: Nodes, target pods, policies, inventories."""

from __future__ import annotations

from typing import Any

from tests.support.kube import INVENTORIES, NODES, POLICIES, QUARANTINES, FakeKube

NAMESPACE = "gpu-operator"
LABEL = ("app", "nvidia-device-plugin-daemonset")
CONTAINER = "nvidia-device-plugin"
UNKNOWN_SINK = {"name": "bus", "nats": {"subject": "gpus"}}
"""A sink as a later version of the operator may have it."""


def node_path(name: str) -> str:
    return f"{NODES}/{name}"


def pod_path(name: str, *, namespace: str = NAMESPACE) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def inventory_path(name: str) -> str:
    return f"{INVENTORIES}/{name}"


def policy_path(name: str) -> str:
    return f"{POLICIES}/{name}"


def quarantine_path(name: str) -> str:
    return f"{QUARANTINES}/{name}"


def put_node(
    kube: FakeKube,
    name: str,
    *,
    gpus: int | None = 2,
    machine: str | None = None,
    boot: str = "boot-1",
    labels: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A Node with GPU capacity; `gpus=None`: the node names none."""
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"labels": labels or {}},
        "spec": {"providerID": f"aws:///zone/{machine or 'i-' + name}"},
        "status": {"nodeInfo": {"bootID": boot}, "capacity": {}},
    }
    if gpus is not None:
        body["status"]["capacity"]["nvidia.com/gpu"] = str(gpus)
    return kube.put(node_path(name), body)


def put_pod(
    kube: FakeKube,
    node: str,
    *,
    name: str | None = None,
    namespace: str = NAMESPACE,
    labels: dict[str, str] | None = None,
    container: str = CONTAINER,
    number: int = 1,
    running: bool = True,
    ready: bool = True,
    started: str = "2026-06-07T10:00:00Z",
    controlled: bool = True,
) -> dict[str, Any]:
    """The target pod of a node; another `number` is another container of the same pod."""
    name = name or f"plugin-{node}"
    state = {"running": {"startedAt": started}} if running else {"waiting": {"reason": "Pulling"}}
    status = {"name": container, "state": state, "ready": running and ready}
    if running:
        status["containerID"] = f"containerd://{name}-{number}"
    meta: dict[str, Any] = {"namespace": namespace, "labels": labels or dict([LABEL])}
    if controlled:
        owner = {"kind": "DaemonSet", "name": "plugin", "uid": "d", "controller": True}
        meta["ownerReferences"] = [owner]
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"nodeName": node, "containers": [{"name": container}]},
        "status": {"phase": "Running" if running else "Pending", "containerStatuses": [status]},
    }
    return kube.put(pod_path(name, namespace=namespace), body)


def put_policy(kube: FakeKube, name: str, **spec: Any) -> dict[str, Any]:
    """A GPUInventoryPolicy; the fields of its spec under their names in the API."""
    body = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventoryPolicy",
        "metadata": {},
        "spec": spec,
    }
    return kube.put(policy_path(name), body)


def put_quarantine(
    kube: FakeKube, name: str, *parts: dict[str, str], **spec: Any
) -> dict[str, Any]:
    """A GPUQuarantine of these parts; further fields of its spec under their names in the API."""
    body = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUQuarantine",
        "metadata": {},
        "spec": {"parts": list(parts), "reason": f"why {name}", **spec},
    }
    known = kube.objects.get(quarantine_path(name), {})
    return kube.put(quarantine_path(name), body | {k: known[k] for k in ("status",) if k in known})


def put_inventory(
    kube: FakeKube,
    name: str,
    *,
    status: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A GPUInventory as it stands in the cluster."""
    body: dict[str, Any] = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventory",
        "metadata": {"labels": labels or {}, "annotations": annotations or {}},
        "spec": spec or {},
    }
    if status is not None:
        body["status"] = status
    return kube.put(inventory_path(name), body)
