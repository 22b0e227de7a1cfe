"""gpuid's labels on Node objects."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from gpuid_operator.engine.core.background import Loop
from gpuid_operator.engine.core.idle_gate import IdleGate
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Conflict, KubeError, NotFound
from gpuid_operator.kube.nodes import get_node, patch_node_labels
from gpuid_operator.plan.labels import node_label_changes
from gpuid_operator.plan.merge_patch import merge_patch
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_ATTEMPTS: Final = 4
_WRITERS: Final = 8
"""Nodes labelled at a time once the gate is open; the rate limit of the client bounds them, too."""


class NodeLabeller:
    """Writes the labels of Nodes: at once, or, while nodes wait to be read, once none does.

    A write of a Node costs the API server more than an exec (docs/performance.md), and the
    inventory has the same facts.
    """

    def __init__(self, client: KubeClient, *, state: ClusterState, idle_gate: IdleGate) -> None:
        self._client = client
        self._state = state
        self._idle_gate = idle_gate
        self._later: dict[str, None] = {}
        """The nodes to label once the gate is open, the first one first."""
        self._some_later = asyncio.Event()

    def loops(self) -> list[Loop]:
        """The loops that write what had to wait."""
        return [self._write_later] * _WRITERS

    async def update(self, name: str) -> None:
        """Write the labels that a node needs, now or as soon as no node waits to be read."""
        if self._idle_gate.is_open:
            await self.sync(name)
        elif self._changes(name):
            self._later[name] = None
            self._some_later.set()

    async def sync(self, name: str) -> None:
        """Write the labels that a node needs. Logs a failure; the next reconcile of the node tries
        again."""
        try:
            for _ in range(_ATTEMPTS):
                if await self._write(name):
                    return
            failure = "the Node keeps changing"
        except NotFound:
            self._state.forget_node(name)
            return
        except KubeError as error:
            failure = error.message
        _log.warning("failed to write node labels", node=name, error=failure)

    async def _write_later(self) -> None:
        while True:
            await self._some_later.wait()
            await self._idle_gate.wait()
            if not self._later:
                self._some_later.clear()
                continue
            name = next(iter(self._later))
            del self._later[name]
            await self.sync(name)

    async def _write(self, name: str) -> bool:
        """Make one attempt. Returns whether the labels are up to date."""
        changes = self._changes(name)
        if not changes:
            return True
        facts = self._state.nodes[name].facts
        loop = asyncio.get_running_loop()
        requested = loop.time()
        try:
            version = await patch_node_labels(self._client, facts, changes)
        except Conflict:
            # The kubelet writes the Node's status often, which changes its resourceVersion.
            requested = loop.time()
            self._state.nodes.put(await get_node(self._client, name), requested=requested)
            return False
        labels = merge_patch(facts.labels, changes)
        written = replace(facts, labels=labels, resource_version=version)
        self._state.nodes.put_written(written, requested=requested)
        return True

    def _changes(self, name: str) -> dict[str, str | None]:
        """The changes that the labels of a node need, as far as node and GPUs are known."""
        node, found = self._state.nodes.get(name), self._state.inventory_with_policy(name)
        if node is None or found is None:
            return {}
        inventory, policy = found
        if inventory.pairs is None or inventory.departed or policy.suspended:
            return {}
        return node_label_changes(node.facts.labels, inventory.pairs, enabled=policy.node_labels)
