"""Keeps each node up to date: the queue of nodes, and everything that may be due for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from gpuid_operator.engine.checks.policy_checks import PolicyChecks
from gpuid_operator.engine.core.background import Loop
from gpuid_operator.engine.core.idle_gate import IdleGate
from gpuid_operator.engine.core.jitter import chance
from gpuid_operator.engine.core.turns import pause
from gpuid_operator.engine.core.work_queue import WorkQueue
from gpuid_operator.engine.delivery.manager import Delivery
from gpuid_operator.engine.reading.reader import Reader
from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.node_view import NodeView
from gpuid_operator.engine.writing.node_labels import NodeLabeller
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.plan import status as plan
from gpuid_operator.plan.checks import recorded
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.plan.staleness import StatusBasis, is_stale
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

MAX_WAIT: Final = timedelta(hours=1)
"""Longest time between two reconciles of a node; the resync usually comes first."""

_MAX_BACKOFF: Final = timedelta(minutes=1)


class NodeReconciler:
    """Reconciles nodes, one per worker at a time."""

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
        self._status_writer = status_writer
        self._reader = reader
        self._labeller = labeller
        self._delivery = delivery
        self._checks = checks
        self._idle_gate = idle_gate
        self._metrics = metrics
        self._clock = clock
        self._queue: WorkQueue[str] = WorkQueue(self._rank)
        self._failures: dict[str, int] = {}

    def __len__(self) -> int:
        """How many nodes wait for a worker."""
        return len(self._queue)

    def enqueue(self, names: Iterable[str]) -> None:
        """Reconcile these nodes as soon as a worker is free."""
        for name in names:
            self._queue.add(name)

    def _rank(self, name: str) -> int:
        """Nodes that nobody has read yet, and reads that a user waits for, come before the rest."""
        inventory = self._state.inventories.get(name)
        urgent = inventory is None or inventory.state is None or inventory.has_open_request
        return 0 if urgent else 1

    def loops(self, workers: int) -> list[Loop]:
        """One loop per worker, and those that write labels which had to wait."""
        return [self._work] * workers + self._labeller.loops()

    async def reconcile(self, name: str) -> timedelta | None:
        """Do everything that is due for a node. Returns the time until the next reconcile, None
        if only an event or the resync can make one necessary.

        Raises KubeError if the node's inventory could not be written.
        """
        view = self._state.view(name)
        if view.skip is not None:
            self._metrics.reads.labels("NotUnderstood").inc()
            return None
        wait = await self._reader.process(view)
        await self._update_status(self._state.view(name))
        self._delivery.enqueue(name)
        # The checks come last: the read fetched the Node, whose labels select the policy.
        self._checks.enqueue([name])
        return wait

    async def _update_status(self, view: NodeView) -> None:
        """Bring status and labels in line with policy, spec and checks, without a read."""
        if view.inventory is not None and _is_stale(view.inventory, view):
            stale = partial(plan.reconsidered, now=self._clock())
            await self._status_writer.write(view.name, stale)
            view = self._state.view(view.name)
        if view.inventory is not None and view.inventory.unsettled:
            unsettled = partial(recorded, now=self._clock())
            await self._status_writer.write(view.name, unsettled)
        await self._status_writer.retry_labels(view.name)
        await self._labeller.update(view.name)

    async def _work(self) -> None:
        while True:
            name = await self._queue.get()
            self._idle_gate.update(len(self._queue))
            try:
                wait = await self.reconcile(name)
                self._failures.pop(name, None)
            except KubeError as error:
                wait = self._back_off(name)
                _log.warning("failed to reconcile node", node=name, error=str(error))
            except Exception:
                # A bug that one node triggers must not stop the others.
                wait = self._back_off(name)
                _log.exception("failed to reconcile node", node=name)
            self._queue.done(name)
            if wait is not None:
                self._queue.add(name, min(wait, MAX_WAIT).total_seconds())
            await pause()  # a node for which nothing is due waits for nothing

    def _back_off(self, name: str) -> timedelta:
        self._failures[name] = self._failures.get(name, 0) + 1
        return backoff(self._failures[name], chance=chance(), most=_MAX_BACKOFF)


def _is_stale(cached: CachedInventory, view: NodeView) -> bool:
    """Whether the node has a status, and one that no longer matches what is in force."""
    basis = StatusBasis(
        policy=cached.policy,
        generation=cached.observed_generation,
        suspended=cached.suspended,
        sinks=frozenset(cursor.sink for cursor in cached.cursors),
        checks=frozenset(check.name for check in cached.checks),
        departed=cached.departed,
        hardware=cached.hardware,
        as_expected=cached.as_expected,
        unique=cached.unique,
        uuids=None if cached.identifiers is None else cached.uuids,
        slices=cached.slices,
    )
    return cached.state is not None and is_stale(basis, view.status_context)
