"""Keeps each node up to date: the queue of nodes, and all that may be due for one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.engine.background import Loop
from gpuid_operator.engine.backlog import Backlog
from gpuid_operator.engine.commit import Change, Committer
from gpuid_operator.engine.delivery import Delivery
from gpuid_operator.engine.fleet import Fleet
from gpuid_operator.engine.held import Held, Inventories
from gpuid_operator.engine.node_labels import NodeLabeller
from gpuid_operator.engine.policy_checks import PolicyChecks
from gpuid_operator.engine.queue import WorkQueue
from gpuid_operator.engine.reader import Reader
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.plan import status as plan
from gpuid_operator.plan.checks import recorded
from gpuid_operator.plan.outcome import Outcome, Terms
from gpuid_operator.plan.policy import outlet
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

LONGEST_WAIT: Final = timedelta(hours=1)
"""A node is looked at again after this at the latest; the re-sync does so sooner."""

_LONGEST_PAUSE: Final = timedelta(minutes=1)


class Upkeep:
    """Looks at one node at a time per worker, and does what is due there."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        inventories: Inventories,
        committer: Committer,
        reader: Reader,
        labeller: NodeLabeller,
        delivery: Delivery,
        checks: PolicyChecks,
        backlog: Backlog,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._fleet = fleet
        self._inventories = inventories
        self._committer = committer
        self._reader = reader
        self._labeller = labeller
        self._delivery = delivery
        self._checks = checks
        self._backlog = backlog
        self._metrics = metrics
        self._clock = clock
        self._queue: WorkQueue[str] = WorkQueue()
        self._failures: dict[str, int] = {}

    def __len__(self) -> int:
        """How many nodes wait for a worker."""
        return len(self._queue)

    def consider(self, names: Iterable[str]) -> None:
        """Something may be due for these nodes."""
        for name in names:
            self._queue.add(name)

    def loops(self, workers: int) -> list[Loop]:
        """So many workers."""
        return [self._work] * workers

    async def _work(self) -> None:
        while True:
            name = await self._queue.get()
            self._backlog.show(len(self._queue))
            try:
                wait = await self._look(name)
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

    async def _look(self, name: str) -> timedelta | None:
        """Do all that is due for a node; the time until it is to be looked at again."""
        held = self._inventories.get(name)
        if self._inventories.is_illegible(name) or self._fleet.in_doubt(held):
            self._metrics.reads.labels("NotUnderstood").inc()
            return None
        wait = await self._reader.process(name)
        held = self._inventories.get(name)
        if held is not None:
            if self._is_stale(held):
                await self._committer.commit(name, self._reconsideration())
            if held.unsettled:
                await self._committer.commit(name, self._recording())
            await self._committer.mend_labels(name)
            if self._labeller.changes(name):
                await self._labeller.sync(name)
            self._delivery.consider(name)
        # Only now are the node's facts known, and with them the checks that it is to have.
        self._checks.consider([name])
        return wait

    def _is_stale(self, held: Held) -> bool:
        """Whether the status was written under other terms than those in force now."""
        if held.state is None:
            return False  # nothing was written yet
        force = self._fleet.force(held.name, held)
        return (
            held.policy != force.policy
            or held.observed_generation != held.generation
            or held.suspended != force.suspended
            or {cursor[:2] for cursor in held.cursors}
            != {(way.name, way.type) for way in map(outlet, force.sinks)}
            or not {check.name for check in held.checks}
            <= {check.name for check in force.checks} | held.foreign_checks
        )

    def _recording(self) -> Change:
        now = self._clock()

        def change(previous: InventoryStatus, terms: Terms) -> Outcome:
            return recorded(previous, now=now, terms=terms)

        return change

    def _reconsideration(self) -> Change:
        now = self._clock()

        def change(previous: InventoryStatus, terms: Terms) -> Outcome:
            return plan.reconsidered(previous, now=now, terms=terms)

        return change
