"""Nodes: their facts, and when the operator fetched them."""

from __future__ import annotations

import asyncio
from collections.abc import ItemsView, Iterator
from dataclasses import dataclass

from gpuid_operator.api.inventory import NodeInfo
from gpuid_operator.kube.nodes import NodeFacts


@dataclass(frozen=True, slots=True)
class KnownNode:
    """The facts of a Node."""

    facts: NodeFacts
    fetched: float
    """When they were fetched, in seconds of the event loop's clock."""


class NodeCache:
    """The facts of all nodes by name. Its methods do no I/O."""

    def __init__(self) -> None:
        self._nodes: dict[str, KnownNode] = {}

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

    def put(self, facts: NodeFacts) -> None:
        """Store facts that were fetched at this moment."""
        self._nodes[facts.name] = KnownNode(facts, asyncio.get_running_loop().time())

    def remove(self, name: str) -> None:
        """Forget a node that is gone."""
        self._nodes.pop(name, None)


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
