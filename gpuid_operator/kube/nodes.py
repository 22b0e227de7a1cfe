"""Node objects: reads the few facts that the operator needs of 25 KB each, and writes labels and
taints."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from gpuid_operator.api.meta import GPU_PRESENT_LABEL, GPU_RESOURCE, QUARANTINE_TAINT
from gpuid_operator.kube.client import (
    MERGE_PATCH,
    ONLY_METADATA,
    ONLY_METADATA_LIST,
    KubeClient,
    item,
)
from gpuid_operator.kube.errors import NotFound, ServerError
from gpuid_operator.kube.node_marks import NodeMarks
from gpuid_operator.kube.paging import list_pages
from gpuid_operator.plan.cluster_kind import NodeTraits

_NODES: Final = "/api/v1/nodes"
_NO_SCHEDULE: Final = "NoSchedule"
_PAGE: Final = 50
"""Nodes per page: about 1.3 MB of JSON, and four times that while it is parsed."""
_METADATA_PAGE: Final = 100
"""The same without spec and status."""


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
    marks: NodeMarks | None = field(default=None, compare=False)
    """Show in metadata that is listed later whether the other facts are still true; None where they
    cannot."""

    @classmethod
    def from_node(cls, node: Mapping[str, Any], *, as_of: datetime | None = None) -> NodeFacts:
        """Read an API object. `as_of` is a time of the API server's clock before it was read, if
        one is known; see NodeMarks."""
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
            labels=_shared(meta.get("labels")),
            gpu_capacity=_count(capacity),
            taints=tuple(spec.get("taints") or ()),
            # The nodes of a fleet have few different ones.
            os_image=sys.intern(system.get("osImage") or ""),
            marks=NodeMarks.from_node(node, as_of=as_of),
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


@dataclass(frozen=True, slots=True)
class NodeMetadata:
    """The metadata of a Node in a list."""

    name: str
    uid: str
    resource_version: str
    labels: dict[str, str]
    marks: NodeMarks | None
    """None where the metadata does not show whether the rest of the Node has changed."""
    facts: NodeFacts | None = None
    """Given where the server has sent the whole Node."""

    @property
    def bare_facts(self) -> NodeFacts:
        """The facts of the metadata; all others are missing."""
        return NodeFacts(
            name=self.name,
            uid=self.uid,
            provider_id=None,
            boot_id=None,
            resource_version=self.resource_version,
            labels=self.labels,
            gpu_capacity=None,
        )

    @property
    def may_have_gpus(self) -> bool:
        """Whether the Node has the label that says that it has GPUs, or may have GPU capacity."""
        named = self.marks is None or self.marks.has_capacity
        return named or self.labels.get(GPU_PRESENT_LABEL) == "true"

    @classmethod
    def from_object(cls, body: Mapping[str, Any], *, as_of: datetime | None) -> NodeMetadata:
        """Read an item of a list that was requested after `as_of`."""
        meta = body["metadata"]
        whole = "status" in body
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            resource_version=meta["resourceVersion"],
            labels=_shared(meta.get("labels")),
            marks=NodeMarks.from_metadata(meta),
            facts=NodeFacts.from_node(body, as_of=as_of) if whole else None,
        )


async def get_node(client: KubeClient, name: str) -> NodeFacts:
    """A node. Raises NotFound, and what `KubeClient.request` raises.

    NotFound makes the caller record that the node has departed, so only an answer of the API is
    one: a load balancer, and an API server that has just started, send other 404s.
    """
    as_of = client.server_time
    try:
        return NodeFacts.from_node(await client.request("GET", item(_NODES, name)), as_of=as_of)
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
    """All nodes, read in pages of `limit`. See `list_pages` for `since`.

    Raises ListExpired, and what `KubeClient.request` raises.
    """
    as_of = client.server_time
    async for page in list_pages(client, _NODES, limit=limit, since=since):
        for node in page["items"]:
            yield NodeFacts.from_node(node, as_of=as_of)


async def list_node_metadata(
    client: KubeClient, *, limit: int = _METADATA_PAGE, since: str = ""
) -> AsyncIterator[NodeMetadata]:
    """The metadata of all nodes, a tenth of the bytes of `list_nodes`, which it is like otherwise.
    A server that cannot leave out the rest sends whole Nodes."""
    as_of = client.server_time
    pages = list_pages(client, _NODES, accept=ONLY_METADATA_LIST, limit=limit, since=since)
    async for page in pages:
        for body in page["items"]:
            yield NodeMetadata.from_object(body, as_of=as_of)


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


def _shared(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Labels of which the nodes of a fleet have most in common: each text is there once."""
    return {sys.intern(key): sys.intern(value) for key, value in (labels or {}).items()}


def _is_ours(taint: Mapping[str, Any]) -> bool:
    return taint.get("key") == QUARANTINE_TAINT and taint.get("effect") == _NO_SCHEDULE


def _count(quantity: str | None) -> int | None:
    # Extended resources are whole numbers; ignore anything else.
    return int(quantity) if quantity is not None and quantity.isdecimal() else None
