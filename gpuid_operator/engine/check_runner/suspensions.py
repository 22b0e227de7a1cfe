"""Which nodes the policies suspend. A check runner uses nothing else of the policies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gpuid_operator.api.policy import PolicySpec
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import NotFound
from gpuid_operator.kube.nodes import get_node, list_node_metadata
from gpuid_operator.kube.policies import list_policies


class Suspensions:
    """The policies, and the labels of nodes while a policy suspends any."""

    def __init__(self, client: KubeClient, *, nodes: Callable[[], set[str]]) -> None:
        """`nodes` returns the names of the nodes that have a pod for the check."""
        self._client = client
        self._nodes = nodes
        self._state = ClusterState(targets=(), builtin=PolicySpec())
        self._all_labels_needed = True
        self.labels_needed = asyncio.Event()
        """Set when the caller must call `fetch_labels`."""

    def is_suspended(self, node: str) -> bool:
        """Whether a policy suspends the node, or may suspend it: its labels are not known yet."""
        if not self._any_policy_suspends():
            return False
        return node not in self._state.nodes or self._state.effective_policy(node, None).suspended

    def policy_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        """Store a policy that was added, changed or deleted."""
        if self._state.policies.take(body, deleted=deleted):
            self._all_labels_needed = True
            self.labels_needed.set()

    def nodes_added(self) -> None:
        """There may be nodes whose labels are not known."""
        if self._any_policy_suspends():
            self.labels_needed.set()

    async def resync(self) -> None:
        """List the policies, and the nodes if a policy suspends any. Raises KubeError."""
        self._state.policies.take_all(await list_policies(self._client))
        self._all_labels_needed = True
        await self.fetch_labels()

    async def fetch_labels(self) -> None:
        """Fetch the labels of all nodes if policies changed, and those of new nodes otherwise.
        Does nothing while no policy suspends nodes. Raises KubeError."""
        if not self._any_policy_suspends():
            return
        if self._all_labels_needed:
            await self._list_nodes()
        for name in self._nodes() - set(self._state.nodes):
            requested = asyncio.get_running_loop().time()
            try:
                facts = await get_node(self._client, name)
            except NotFound:
                continue  # the node is being removed; no check runs there
            self._state.nodes.put(facts, requested=requested)

    async def _list_nodes(self) -> None:
        # Cleared before the list: a policy may change while it is read.
        self._all_labels_needed = False
        requested = asyncio.get_running_loop().time()
        unseen = set(self._state.nodes)
        try:
            async for meta in list_node_metadata(self._client):
                unseen.discard(meta.name)
                self._state.nodes.put(meta.bare_facts, requested=requested)
        except BaseException:
            self._all_labels_needed = True
            raise
        for name in unseen:
            self._state.forget_node(name)

    def _any_policy_suspends(self) -> bool:
        return any(policy.spec.suspend for policy in self._state.policies)
