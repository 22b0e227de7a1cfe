"""Fetches single Nodes between two resyncs."""

from __future__ import annotations

import asyncio
from typing import Final

from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import NotFound
from gpuid_operator.kube.nodes import NodeFacts, get_node

MAX_AGE: Final = 60.0
"""Seconds for which a node's facts count as current, unless its pods change."""


class NodeFetcher:
    """Keeps the facts of single Nodes current."""

    def __init__(self, client: KubeClient, *, state: ClusterState) -> None:
        self._client = client
        self._state = state

    async def current(self, name: str) -> NodeFacts | None:
        """The node's facts, at most MAX_AGE old and fetched since its pods last changed; None if
        there is no such Node.

        By these facts a read decides whether a missing GPU is certainly gone, so they must not be
        older than the event that made the read due. Raises as `KubeClient.request`.
        """
        known = self._state.nodes.get(name)
        oldest = asyncio.get_running_loop().time() - MAX_AGE
        current = (
            known is not None
            and known.fetched > oldest
            and known.fetched >= self._state.pods.changed(name)
        )
        return known.facts if known is not None and current else await self.fetch(name)

    async def fetch(self, name: str) -> NodeFacts | None:
        """Fetch the Node; None if there is no such Node, which is then forgotten.

        Raises as `KubeClient.request`.
        """
        requested = asyncio.get_running_loop().time()
        try:
            facts = await get_node(self._client, name)
        except NotFound:
            self._state.forget_node(name)
            return None
        self._state.nodes.put(facts, requested=requested)
        return facts
