"""Quarantines on a local cluster: their objects, and what became of them."""

from __future__ import annotations

from typing import Any

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from tests.support.operators import history, status

QUARANTINES = "/apis/gpuid.github.com/v1alpha1/gpuquarantines"
TAINT = "gpuid.github.com/quarantined"


def manifest(name: str, *parts: dict[str, str], **spec: Any) -> dict[str, Any]:
    """A GPUQuarantine as it is kept in git."""
    return {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUQuarantine",
        "metadata": {"name": name},
        "spec": {"parts": list(parts), "reason": "Xid 79 three times", **spec},
    }


def condemn(cluster: LocalCluster, name: str, *parts: dict[str, str], **spec: Any) -> None:
    """Create a quarantine."""
    cluster.client.send(Request("POST", QUARANTINES, manifest(name, *parts, **spec)))


def lift(cluster: LocalCluster, name: str) -> None:
    """Delete a quarantine."""
    cluster.client.send(Request("DELETE", f"{QUARANTINES}/{name}"))


def quarantine_status(cluster: LocalCluster, name: str) -> dict[str, Any]:
    return dict(cluster.client.get(f"{QUARANTINES}/{name}").get("status", {}))


def quarantine_condition(cluster: LocalCluster, name: str, kind: str = "Ready") -> tuple[str, str]:
    """Status and reason of a condition."""
    for one in quarantine_status(cluster, name).get("conditions", ()):
        if one["type"] == kind:
            return one["status"], one["reason"]
    raise AssertionError(f"{name} has no condition {kind}")


def matching_nodes(cluster: LocalCluster, name: str) -> list[str]:
    """The nodes of its matches, once it has a status."""
    found = quarantine_status(cluster, name)
    assert found["matchCount"] == len(found.get("matches", ()))
    return [match["node"] for match in found.get("matches", ())]


def marks(cluster: LocalCluster, node: str) -> list[list[str]]:
    """The names on each GPU."""
    return [gpu.get("quarantines", []) for gpu in status(cluster, node)["gpus"]]


def told(cluster: LocalCluster, node: str) -> list[tuple[str, str]]:
    """Type and name of each entry about quarantine."""
    return [
        (entry["type"], entry.get("to") or entry["from"])
        for entry in history(cluster, node)
        if entry["type"] in ("GPUQuarantined", "GPUReleased")
    ]


def taints(cluster: LocalCluster, node: str) -> list[tuple[str, str, str]]:
    """Key, value and effect of each taint."""
    found = cluster.client.get(f"/api/v1/nodes/{node}")["spec"].get("taints", ())
    return [(taint["key"], taint.get("value", ""), taint["effect"]) for taint in found]


def set_taints(cluster: LocalCluster, node: str, *wanted: tuple[str, str, str]) -> None:
    """Replace the taints of a node, as an administrator would."""
    found = [dict(zip(("key", "value", "effect"), taint, strict=True)) for taint in wanted]
    body = {"spec": {"taints": found}}
    cluster.client.send(Request("PATCH", f"/api/v1/nodes/{node}", body, content_type=MERGE))
