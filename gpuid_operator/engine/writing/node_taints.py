"""The taint that keeps new pods off nodes with a GPU in quarantine; see plan/quarantine_taints.py.

The operator sets and removes only this taint. It never evicts a pod, cordons or drains a node. Node
objects are not watched: a taint that somebody else removes comes back with the next resync.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Final

from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.writing.rounds import WriteRounds
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Conflict, NotFound
from gpuid_operator.kube.nodes import get_node, patch_node_taints
from gpuid_operator.plan.quarantine import QuarantineIndex
from gpuid_operator.plan.quarantine_taints import NodeLimit, TaintedNode, TaintPlan, plan_taints
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_ATTEMPTS: Final = 4

Asking = Mapping[str, set[str]]
"""Names of the quarantines that ask for the taint, by node that has one of their parts."""


class NodeTainter:
    """Writes the taints of Nodes."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        allowed: bool,
        limit: NodeLimit,
    ) -> None:
        """`allowed` is QUARANTINE_TAINTS, `limit` is QUARANTINE_MAX_NODES."""
        self.allowed = allowed
        self._client = client
        self._state = state
        self._limit = limit

    def plan(self, asking: Asking, index: QuarantineIndex, *, now: datetime) -> TaintPlan:
        """Decide on the taints of all nodes."""
        return plan_taints(
            self._nodes(asking, index, now=now),
            allowed=self.allowed,
            limit=self._limit.of(self._state.gpu_node_count()),
        )

    async def write(self, plan: TaintPlan, rounds: WriteRounds) -> None:
        """Write what the plan changes. A failure is logged, and tried again with back-off."""
        for name, value in plan.changes.items():
            error = await rounds.attempt(
                f"taint of {name}", value or "", partial(self._sync, name, value)
            )
            if error is not None:
                _log.warning("failed to write taint of node", node=name, error=error.message)

    def _nodes(
        self, asking: Asking, index: QuarantineIndex, *, now: datetime
    ) -> Iterator[TaintedNode]:
        for name, known in self._state.nodes.items():
            value, names = known.facts.quarantine_taint, asking.get(name, set())
            if value is None and not names:
                continue
            view = self._state.view(name)
            if value is not None and self._still_asks(name, value, index, now=now):
                names = names | {value}
            yield TaintedNode(
                name=name,
                value=value,
                asking=tuple(sorted(names)),
                untouched=view.suspended or view.skip is not None,
            )

    def _still_asks(self, name: str, value: str, index: QuarantineIndex, *, now: datetime) -> bool:
        """Whether the quarantine that a taint names asks for it although none of its parts is known
        to be there."""
        if value in index.unreadable:
            return True
        inventory = self._state.inventories.get(name)
        if inventory is not None and inventory.identifiers is not None and not inventory.departed:
            return False
        rule = index.rules.get(value)
        return rule is not None and rule.taint and rule.is_active(now)

    async def _sync(self, name: str, value: str | None) -> None:
        """Give the taint of a node this value. Raises Conflict while the Node keeps changing."""
        for attempt in range(1, _ATTEMPTS + 1):
            known = self._state.nodes.get(name)
            if known is not None and not known.whole:
                await self._refresh(name)  # a patch replaces the taints of others, too
                known = self._state.nodes.get(name)
            if known is None or known.facts.quarantine_taint == value:
                return
            try:
                await self._patch(name, value)
            except NotFound:
                self._state.forget_node(name)
            except Conflict:
                # The kubelet writes the Node's status often, which changes its resourceVersion.
                if attempt == _ATTEMPTS:
                    raise
                await self._refresh(name)
            else:
                done = "removed taint of node" if value is None else "set taint of node"
                _log.info(done, node=name, quarantine=value or known.facts.quarantine_taint)

    async def _patch(self, name: str, value: str | None) -> None:
        facts = self._state.nodes[name].facts
        taints = facts.with_quarantine_taint(value)
        requested = asyncio.get_running_loop().time()
        version = await patch_node_taints(self._client, facts, taints)
        written = replace(facts, taints=taints, resource_version=version)
        self._state.nodes.put_written(written, requested=requested)

    async def _refresh(self, name: str) -> None:
        requested = asyncio.get_running_loop().time()
        try:
            self._state.nodes.put(await get_node(self._client, name), requested=requested)
        except NotFound:
            self._state.forget_node(name)
