"""Node objects: reads the few facts that the operator needs of 25 KB each, and writes labels and
taints."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gpuid_operator.api.meta import GPU_PRESENT_LABEL, GPU_RESOURCE, QUARANTINE_TAINT
from gpuid_operator.kube.client import MERGE_PATCH, ONLY_METADATA, KubeClient, item
from gpuid_operator.kube.errors import NotFound, ServerError
from gpuid_operator.plan.cluster_kind import NodeTraits

_NODES: Final = "/api/v1/nodes"
_NO_SCHEDULE: Final = "NoSchedule"
_PAGE: Final = 100
"""Nodes per page: about 2.5 MB of JSON, and four times that while it is parsed."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The facts of a Node that the operator needs."""

    name: str
    uid: str
    provider_id: str | None
    """spec.providerID, which identifies the virtual machine."""
    boot_id: str | None
    """status.nodeInfo.bootID, which changes with each boot."""
    resource_version: str
    labels: dict[str, str]
    gpu_capacity: int | None
    """status.capacity of nvidia.com/gpu; None if the Node does not report it."""
    taints: tuple[Mapping[str, Any], ...] = ()
    """spec.taints: all of them, since a patch replaces the list."""
    os_image: str = ""
    """status.nodeInfo.osImage."""

    @classmethod
    def from_node(cls, node: Mapping[str, Any]) -> NodeFacts:
        """Read an API object."""
        meta = node["metadata"]
        spec, status = node.get("spec") or {}, node.get("status") or {}
        system = status.get("nodeInfo") or {}
        capacity = (status.get("capacity") or {}).get(GPU_RESOURCE)
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            provider_id=spec.get("providerID") or None,
            boot_id=system.get("bootID") or None,
            resource_version=meta["resourceVersion"],
            labels=meta.get("labels") or {},
            gpu_capacity=_count(capacity),
            taints=tuple(spec.get("taints") or ()),
            # The nodes of a fleet have few different ones.
            os_image=sys.intern(system.get("osImage") or ""),
        )

    @property
    def has_gpus(self) -> bool:
        """Whether the Node has GPU capacity, or the label that says that it has GPUs."""
        return bool(self.gpu_capacity) or self.labels.get(GPU_PRESENT_LABEL) == "true"

    @property
    def traits(self) -> NodeTraits:
        """What the Node says about its kind of cluster."""
        return NodeTraits(name=self.name, labels=self.labels, os_image=self.os_image)

    @property
    def quarantine_taint(self) -> str | None:
        """The value of the operator's taint; None where the Node does not have it. A taint with
        another effect is of somebody else."""
        found = (taint.get("value", "") for taint in self.taints if _is_ours(taint))
        return next(found, None)

    def with_quarantine_taint(self, value: str | None) -> tuple[Mapping[str, Any], ...]:
        """The taints with this value of the operator's, without it for None. The others stay as
        they are, and where they are."""
        others = [taint for taint in self.taints if not _is_ours(taint)]
        if value is None:
            return tuple(others)
        ours = {"key": QUARANTINE_TAINT, "value": value, "effect": _NO_SCHEDULE}
        return (*others, ours)


async def get_node(client: KubeClient, name: str) -> NodeFacts:
    """A node. Raises NotFound, and what `KubeClient.request` raises.

    NotFound makes the caller record that the node has departed, so only an answer of the API is
    one: a load balancer, and an API server that has just started, send other 404s.
    """
    try:
        return NodeFacts.from_node(await client.request("GET", item(_NODES, name)))
    except NotFound as error:
        if error.reason == "NotFound":
            raise
        message = f"{error.message} (not from the API: it names no reason; check what answers)"
        raise ServerError(
            message, status=404, reason="", server_message=error.server_message
        ) from error


async def list_nodes(
    client: KubeClient, *, limit: int = _PAGE, since: str = ""
) -> AsyncIterator[NodeFacts]:
    """All nodes, read in pages of `limit`. See `KubeClient.pages` for `since`.

    Raises ListExpired, and what `KubeClient.request` raises.
    """
    async for page in client.pages(_NODES, limit=limit, since=since):
        for node in page["items"]:
            yield NodeFacts.from_node(node)


async def patch_node_labels(
    client: KubeClient, facts: NodeFacts, changes: Mapping[str, str | None]
) -> str:
    """Set labels of a node, remove those whose value is None; return the new resourceVersion.

    Raises Conflict if the node changed since `facts` were read, and what `KubeClient.request`
    raises.
    """
    return await _patch(client, facts, {"metadata": {"labels": dict(changes)}})


async def patch_node_taints(
    client: KubeClient, facts: NodeFacts, taints: Sequence[Mapping[str, Any]]
) -> str:
    """Replace the taints of a node; return the new resourceVersion.

    Raises Conflict if the node changed since `facts` were read, and what `KubeClient.request`
    raises.
    """
    return await _patch(client, facts, {"spec": {"taints": list(taints) or None}})


async def _patch(client: KubeClient, facts: NodeFacts, changes: dict[str, Any]) -> str:
    meta = {**changes.get("metadata", {}), "resourceVersion": facts.resource_version}
    answer = await client.request(
        "PATCH",
        item(_NODES, facts.name),
        body={**changes, "metadata": meta},
        content_type=MERGE_PATCH,
        accept=ONLY_METADATA,
    )
    version: str = answer["metadata"]["resourceVersion"]
    return version


def _is_ours(taint: Mapping[str, Any]) -> bool:
    return taint.get("key") == QUARANTINE_TAINT and taint.get("effect") == _NO_SCHEDULE


def _count(quantity: str | None) -> int | None:
    # Extended resources are whole numbers; ignore anything else.
    return int(quantity) if quantity is not None and quantity.isdecimal() else None
