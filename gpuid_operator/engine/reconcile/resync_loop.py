"""When the cluster is listed again, and what follows from a list."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from gpuid_operator.engine.checks.policy_checks import PolicyChecks
from gpuid_operator.engine.core.background import Loop
from gpuid_operator.engine.core.jitter import chance
from gpuid_operator.engine.core.options import Timings
from gpuid_operator.engine.delivery.manager import Delivery
from gpuid_operator.engine.reconcile.expiry import InventoryExpiry
from gpuid_operator.engine.reconcile.quarantines import Quarantines
from gpuid_operator.engine.reconcile.reconciler import NodeReconciler
from gpuid_operator.engine.reconcile.resync import Resync
from gpuid_operator.engine.writing.policy_status import PolicyStatuses
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)


class ResyncLoop:
    """Lists everything from time to time, and what the watch brings after each start of a watch."""

    def __init__(
        self,
        resync: Resync,
        expiry: InventoryExpiry,
        *,
        reconciler: NodeReconciler,
        delivery: Delivery,
        checks: PolicyChecks,
        policy_statuses: PolicyStatuses,
        quarantines: Quarantines,
        metrics: Metrics,
        timings: Timings,
    ) -> None:
        self._resync = resync
        self._expiry = expiry
        self._reconciler = reconciler
        self._delivery = delivery
        self._checks = checks
        self._policy_statuses = policy_statuses
        self._quarantines = quarantines
        self._metrics = metrics
        self._timings = timings
        self._watch_started = asyncio.Event()

    def loops(self) -> list[Loop]:
        return [self._run, self._catch_up]

    def watch_started(self) -> None:
        """A watch starts, for the first time or again: objects that were deleted before it have no
        event."""
        self._watch_started.set()

    async def _run(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(self._pause(failures).total_seconds())
            try:
                await self._once()
                failures = 0
            except KubeError as error:
                failures += 1
                _log.warning("resync failed", error=str(error), failures=failures)
            except Exception:
                failures += 1
                _log.exception("resync failed")

    def _pause(self, failures: int) -> timedelta:
        if not failures:
            return self._timings.resync
        return min(self._timings.resync, backoff(failures, chance=chance()))

    async def _once(self) -> None:
        names = await self._resync.run()
        for name in await self._expiry.run():
            self._delivery.forget(name)
            self._metrics.forget_node(name)
        await self._delivery.prune()
        self._policy_statuses.touch()
        self._quarantines.recheck()
        self._reconciler.enqueue(names)
        await self._checks.relist()

    async def _catch_up(self) -> None:
        while True:
            await self._watch_started.wait()
            # By then the watch has listed, too.
            await asyncio.sleep(self._timings.catch_up.total_seconds())
            self._watch_started.clear()
            try:
                self._reconciler.enqueue(await self._resync.catch_up())
            except KubeError as error:
                _log.warning("failed to list pods after the watch started", error=str(error))
