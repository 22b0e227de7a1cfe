"""Node objects: reads the few facts that the operator needs of 25 KB each, and writes labels."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gpuid_operator.api.meta import GPU_RESOURCE
from gpuid_operator.kube.client import MERGE_PATCH, ONLY_METADATA, KubeClient, item
from gpuid_operator.kube.errors import NotFound, ServerError

_NODES: Final = "/api/v1/nodes"
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

    @classmethod
    def from_node(cls, node: Mapping[str, Any]) -> NodeFacts:
        """Read an API object."""
        meta = node["metadata"]
        status = node.get("status") or {}
        capacity = (status.get("capacity") or {}).get(GPU_RESOURCE)
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            provider_id=(node.get("spec") or {}).get("providerID") or None,
            boot_id=(status.get("nodeInfo") or {}).get("bootID") or None,
            resource_version=meta["resourceVersion"],
            labels=meta.get("labels") or {},
            gpu_capacity=_count(capacity),
        )


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


async def list_nodes(client: KubeClient, *, limit: int = _PAGE) -> AsyncIterator[NodeFacts]:
    """All nodes, read in pages of `limit`.

    Raises ListExpired, and what `KubeClient.request` raises.
    """
    async for page in client.pages(_NODES, limit=limit):
        for node in page["items"]:
            yield NodeFacts.from_node(node)


async def patch_node_labels(
    client: KubeClient, facts: NodeFacts, changes: Mapping[str, str | None]
) -> str:
    """Set labels of a node, remove those whose value is None; return the new resourceVersion.

    Raises Conflict if the node changed since `facts` were read, and what `KubeClient.request`
    raises.
    """
    meta = {"resourceVersion": facts.resource_version, "labels": dict(changes)}
    answer = await client.request(
        "PATCH",
        item(_NODES, facts.name),
        body={"metadata": meta},
        content_type=MERGE_PATCH,
        accept=ONLY_METADATA,
    )
    version: str = answer["metadata"]["resourceVersion"]
    return version


def _count(quantity: str | None) -> int | None:
    # Extended resources are whole numbers; ignore anything else.
    return int(quantity) if quantity is not None and quantity.isdecimal() else None
