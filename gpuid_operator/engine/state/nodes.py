"""Nodes: their facts, and when the operator requested them."""

from __future__ import annotations

import asyncio
from collections.abc import ItemsView, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from gpuid_operator.api.inventory import NodeInfo
from gpuid_operator.engine.state.resource_version import newer
from gpuid_operator.kube.nodes import NodeFacts, NodeMetadata


@dataclass(frozen=True, slots=True)
class KnownNode:
    """The facts of a Node."""

    facts: NodeFacts
    fetched: float
    """When they were requested, in seconds of the event loop's clock: they are not older, except
    for labels and resourceVersion, which may be newer. The facts of a list were requested with its
    first page."""
    whole: bool = True
    """Whether all facts are those of their resourceVersion."""


class NodeCache:
    """The facts of all nodes by name. Its methods do no I/O."""

    def __init__(self) -> None:
        self._nodes: dict[str, KnownNode] = {}
        # When Nodes were found gone while a list was under way, which may still bring them.
        self._removed: dict[str, float] = {}
        self._lists = 0

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._nodes))

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, name: str) -> KnownNode:
        return self._nodes[name]

    def get(self, name: str) -> KnownNode | None:
        return self._nodes.get(name)

    def items(self) -> ItemsView[str, KnownNode]:
        return self._nodes.items()

    @contextmanager
    def listing(self) -> Iterator[float]:
        """List Nodes in this context, so that no page brings back a Node that was found gone
        meanwhile. Yields the time at which the list is requested, for `put`."""
        self._lists += 1
        try:
            yield asyncio.get_running_loop().time()
        finally:
            self._lists -= 1
            if not self._lists:
                self._removed.clear()

    def put(self, facts: NodeFacts, *, requested: float) -> None:
        """Store facts that were requested at this time of the event loop's clock, unless later
        facts are known, or that the Node was gone later."""
        known = self._nodes.get(facts.name)
        latest = known.fetched if known is not None else self._removed.get(facts.name, requested)
        if latest <= requested:
            self._nodes[facts.name] = KnownNode(facts, requested)

    def put_written(self, facts: NodeFacts, *, requested: float) -> None:
        """Store the facts after a write that the API server accepted, so that nobody else has
        changed the Node since its resourceVersion before."""
        known = self._nodes.get(facts.name)
        if known is None or known.whole:
            self.put(facts, requested=requested)
        elif known.facts.uid == facts.uid:
            self._nodes[facts.name] = replace(known, facts=facts)

    def put_metadata(self, meta: NodeMetadata, *, requested: float) -> None:
        """Store labels and resourceVersion of a Node that is known, and of which only those have
        changed, as far as its facts matter now. Does nothing where later ones are known."""
        known = self._nodes.get(meta.name)
        if known is None or known.fetched > requested or known.facts.uid != meta.uid:
            return
        if newer(meta.resource_version, than=known.facts.resource_version):
            facts = replace(known.facts, labels=meta.labels, resource_version=meta.resource_version)
            self._nodes[meta.name] = replace(known, facts=facts, whole=False)

    def remove(self, name: str) -> None:
        """Forget a node that is gone."""
        self._nodes.pop(name, None)
        if self._lists:
            self._removed[name] = asyncio.get_running_loop().time()


def node_info(facts: NodeFacts) -> NodeInfo:
    """The facts of a Node in the form of `status.node`."""
    provider = facts.provider_id
    return NodeInfo(
        name=facts.name,
        uid=facts.uid,
        provider_id=provider,
        machine=(provider or "").rstrip("/").rpartition("/")[2] or "na",
        boot_id=facts.boot_id,
    )
