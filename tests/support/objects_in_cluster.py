"""Objects that tests create in a real cluster: namespaces, and nodes and pods that KWOK plays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from gpuid_operator.localcluster.hardware import Hardware
from gpuid_operator.localcluster.layout import Layout
from gpuid_operator.localcluster.nodes import namespace, node


def make_namespace(cluster: LocalCluster, name: str) -> None:
    """A namespace, unless it is there."""
    cluster.client.send(Request("POST", "/api/v1/namespaces", namespace(name), tolerate=(409,)))


def make_node(
    cluster: LocalCluster,
    name: str,
    xml: str,
    *,
    gpus: int = 2,
    labels: Mapping[str, str] | None = None,
) -> None:
    """A simulated GPU node on which the device plugin of the local cluster does not run."""
    body = node(
        name,
        gpus=gpus,
        product="NVIDIA H100",
        instance_type="p5.48xlarge",
        provider_id=None,
        labels={"nvidia.com/gpu.present": "false", **(labels or {})},
        object_bytes=None,
    )
    Hardware(Layout(cluster.directory), name).write_smi(xml)
    cluster.client.send(Request("POST", "/api/v1/nodes", body))


def make_pod(
    cluster: LocalCluster,
    name: str,
    *,
    node: str,
    namespace: str,
    labels: Mapping[str, str],
    containers: Iterable[str],
) -> None:
    """A pod on a simulated node, which KWOK makes ready."""
    owner = owned_by_node(cluster, node)
    spec = {
        "nodeName": node,
        "tolerations": [{"operator": "Exists"}],
        "automountServiceAccountToken": False,
        "containers": [{"name": container, "image": container} for container in containers],
    }
    meta = {"name": name, "namespace": namespace, "labels": dict(labels), **owner}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
    cluster.client.send(Request("POST", f"/api/v1/namespaces/{namespace}/pods", body))


def owned_by_node(cluster: LocalCluster, node: str) -> dict[str, Any]:
    """Metadata with a controller, so that no DaemonSet whose labels a pod has adopts it."""
    uid = cluster.client.get(f"/api/v1/nodes/{node}")["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid, "controller": True}
    return {"ownerReferences": [owner]}


def delete_pod(cluster: LocalCluster, name: str, *, namespace: str) -> None:
    """Delete a pod at once."""
    path = f"/api/v1/namespaces/{namespace}/pods/{name}?gracePeriodSeconds=0"
    cluster.client.send(Request("DELETE", path))
