"""Which nodes the policies suspend, for a check runner: it asks them nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gpuid_operator.api.policy import PolicySpec
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import NotFound
from gpuid_operator.kube.nodes import get_node, list_nodes
from gpuid_operator.kube.policies import list_policies


class Suspensions:
    """The policies, and the labels of nodes as long as a policy suspends any."""

    def __init__(self, client: KubeClient, *, nodes: Callable[[], set[str]]) -> None:
        """`nodes` gives those that matter."""
        self._client = client
        self._nodes = nodes
        self._state = ClusterState(targets=(), builtin=PolicySpec())
        self._outdated = True
        self.news = asyncio.Event()
        """Set when `learn` is to be called."""

    def holds(self, node: str) -> bool:
        """Whether the node is suspended, or may be: its labels are not known yet."""
        if not self._any():
            return False
        return node not in self._state.nodes or self._state.effective_policy(node, None).suspended

    def policy_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        """A policy came, changed or went."""
        if self._state.policies.take(body, deleted=deleted):
            self._outdated = True
            self.news.set()

    def nodes_came(self) -> None:
        """There may be nodes of which nothing is known."""
        if self._any():
            self.news.set()

    async def look(self) -> None:
        """List the policies, and what follows from them. Raises KubeError."""
        self._state.policies.take_all(await list_policies(self._client))
        self._outdated = True
        await self.learn()

    async def learn(self) -> None:
        """Fetch the labels that are asked for: of every node when policies changed, else of those
        that are new. Raises KubeError."""
        if not self._any():
            return
        if self._outdated:
            self._outdated = False
            try:
                unseen = set(self._state.nodes)
                async for facts in list_nodes(self._client):
                    unseen.discard(facts.name)
                    self._state.nodes.put(facts)
            except BaseException:
                self._outdated = True
                raise
            for name in unseen:
                self._state.forget_node(name)
        for name in self._nodes() - set(self._state.nodes):
            try:
                self._state.nodes.put(await get_node(self._client, name))
            except NotFound:
                continue  # on its way out, and nothing is run there

    def _any(self) -> bool:
        return any(policy.spec.suspend for policy in self._state.policies)
