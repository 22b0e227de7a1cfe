"""Keeps each node up to date: the queue of nodes, and all that may be due for one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.engine.checks.policy_checks import PolicyChecks
from gpuid_operator.engine.core.background import Loop
from gpuid_operator.engine.core.idle_gate import IdleGate
from gpuid_operator.engine.core.work_queue import WorkQueue
from gpuid_operator.engine.delivery.manager import Delivery
from gpuid_operator.engine.reading.reader import Reader
from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.writing.node_labels import NodeLabeller
from gpuid_operator.engine.writing.status_writer import Decision, StatusWriter
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.plan import status as plan
from gpuid_operator.plan.checks import recorded
from gpuid_operator.plan.policy import sink_filter
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.plan.status_change import StatusChange, StatusContext
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

LONGEST_WAIT: Final = timedelta(hours=1)
"""A node is looked at again after this at the latest; the re-sync does so sooner."""

_LONGEST_PAUSE: Final = timedelta(minutes=1)


class NodeReconciler:
    """Looks at one node at a time per worker, and does what is due there."""

    def __init__(
        self,
        *,
        state: ClusterState,
        status_writer: StatusWriter,
        reader: Reader,
        labeller: NodeLabeller,
        delivery: Delivery,
        checks: PolicyChecks,
        idle_gate: IdleGate,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._state = state
        self._inventories = state.inventories
        self._status_writer = status_writer
        self._reader = reader
        self._labeller = labeller
        self._delivery = delivery
        self._checks = checks
        self._idle_gate = idle_gate
        self._metrics = metrics
        self._clock = clock
        self._queue: WorkQueue[str] = WorkQueue()
        self._failures: dict[str, int] = {}

    def __len__(self) -> int:
        """How many nodes wait for a worker."""
        return len(self._queue)

    def enqueue(self, names: Iterable[str]) -> None:
        """Something may be due for these nodes."""
        for name in names:
            self._queue.add(name)

    def loops(self, workers: int) -> list[Loop]:
        """So many workers."""
        return [self._work] * workers

    async def _work(self) -> None:
        while True:
            name = await self._queue.get()
            self._idle_gate.show(len(self._queue))
            try:
                wait = await self.reconcile(name)
                self._failures.pop(name, None)
            except KubeError as error:
                wait = self._back_off(name)
                _log.warning("a node could not be brought up to date", node=name, error=str(error))
            except Exception:
                # Whatever it was, it concerns this node; the others must go on.
                wait = self._back_off(name)
                _log.exception("a node could not be brought up to date", node=name)
            self._queue.done(name)
            if wait is not None:
                self._queue.add(name, min(wait, LONGEST_WAIT).total_seconds())

    def _back_off(self, name: str) -> timedelta:
        self._failures[name] = self._failures.get(name, 0) + 1
        chance = random.random()  # noqa: S311 - jitter, no secret
        return backoff(self._failures[name], chance=chance, most=_LONGEST_PAUSE)

    async def reconcile(self, name: str) -> timedelta | None:
        """Do all that is due for a node; the time until it is to be looked at again."""
        if self._state.skip_reason(name) is not None:
            self._metrics.reads.labels("NotUnderstood").inc()
            return None
        wait = await self._reader.process(name)
        cached = self._inventories.get(name)
        if cached is not None:
            if self._is_stale(cached):
                await self._status_writer.write(name, self._reconsideration())
            if cached.unsettled:
                await self._status_writer.write(name, self._recording())
            await self._status_writer.retry_labels(name)
            await self._labeller.sync(name)
            self._delivery.enqueue(name)
        # Only now are the node's facts known, and with them the checks that it is to have.
        self._checks.enqueue([name])
        return wait

    def _is_stale(self, cached: CachedInventory) -> bool:
        """Whether the status was written under other terms than those in force now."""
        if cached.state is None:
            return False  # nothing was written yet
        effective = self._state.effective_policy(cached.name, cached)
        return (
            cached.policy != effective.policy
            or cached.observed_generation != cached.generation
            or cached.suspended != effective.suspended
            or {cursor.sink for cursor in cached.cursors}
            != {(way.name, way.type) for way in map(sink_filter, effective.sinks)}
            or not {check.name for check in cached.checks}
            <= {check.name for check in effective.checks} | cached.foreign_checks
        )

    def _recording(self) -> Decision:
        now = self._clock()

        def decide(previous: InventoryStatus, context: StatusContext) -> StatusChange:
            return recorded(previous, now=now, context=context)

        return decide

    def _reconsideration(self) -> Decision:
        now = self._clock()

        def decide(previous: InventoryStatus, context: StatusContext) -> StatusChange:
            return plan.reconsidered(previous, now=now, context=context)

        return decide
