"""The check runner: an instance that runs one command on each node and keeps no inventory.

It works with or without an instance that keeps the inventory. It obeys `suspend` of policies and
inventories, and ignores everything else in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from gpuid_operator.engine.check_runner.result_store import RunnerResultStore
from gpuid_operator.engine.check_runner.suspensions import Suspensions
from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.checks.pod_list import list_check_pods
from gpuid_operator.engine.checks.pods import CheckPods
from gpuid_operator.engine.checks.worker import CheckWorker
from gpuid_operator.engine.core.background import Loop, run_forever
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS, Timings, utcnow
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

_LABELS_PAUSE: Final = 5.0
"""Seconds until node labels that could not be read are read again."""


class CheckRunner:
    """Runs one check of the environment on all nodes that have a pod for it."""

    def __init__(
        self,
        client: KubeClient,
        job: CheckJob,
        *,
        workers: int,
        per_hour: int,
        suspended: bool,
        metrics: Metrics,
        clock: Callable[[], datetime] = utcnow,
        timings: Timings = DEFAULT_TIMINGS,
    ) -> None:
        """`per_hour` limits the restarts; `suspended` is SUSPEND."""
        self._client = client
        self._job = job
        self._resync_period = timings.resync.total_seconds()
        self._pods = CheckPods()
        self._pods.follow([job])
        self._suspensions = Suspensions(client, nodes=self._pods.nodes)
        self._results = RunnerResultStore(
            client,
            job,
            pods=self._pods,
            is_suspended=lambda node: suspended or self._suspensions.is_suspended(node),
            metrics=metrics,
        )
        self._worker = CheckWorker(
            client,
            pods=self._pods,
            results=self._results,
            slots=asyncio.Semaphore(workers),
            workers=workers,
            per_hour=per_hour,
            timings=timings,
            clock=clock,
        )
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def sources(self) -> tuple[PodSelector, ...]:
        """The pods to watch."""
        return (self._job.source,)

    async def start(self) -> None:
        """List pods, policies and inventories, then start to run the check. Raises KubeError."""
        await self._resync()
        loops: list[Loop] = [*self._worker.loops(), self._resync_forever, self._follow_policies]
        self._tasks += [asyncio.create_task(run_forever(loop)) for loop in loops]

    async def stop(self, *, within: float) -> None:
        """Cancel the runs and post the Events that wait, within so many seconds."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within * 0.8)
        await self._results.close(within=within * 0.2)

    def pod_event(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> None:
        """Store a pod that was added, changed or deleted."""
        nodes = self._pods.put(source, body, deleted=deleted)
        if nodes:
            self._suspensions.nodes_added()
        self._worker.enqueue(nodes)

    def policy_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        """Store a policy that was added, changed or deleted."""
        self._suspensions.policy_event(body, deleted=deleted)

    async def _resync(self) -> None:
        await list_check_pods(self._client, self._pods, self._job.source)
        await self._suspensions.resync()
        await self._results.refresh()
        nodes = self._pods.nodes()
        self._worker.stop_unwanted()
        self._worker.prune(nodes)
        self._worker.enqueue(nodes)

    async def _resync_forever(self) -> None:
        while True:
            await asyncio.sleep(self._resync_period)
            try:
                await self._resync()
            except KubeError as error:
                _log.warning("resync failed", error=error.message)
            except Exception:
                _log.exception("resync failed")

    async def _follow_policies(self) -> None:
        while True:
            await self._suspensions.labels_needed.wait()
            self._suspensions.labels_needed.clear()
            try:
                await self._suspensions.fetch_labels()
            except KubeError as error:
                _log.warning("failed to read node labels; retrying", error=error.message)
                await asyncio.sleep(_LABELS_PAUSE)
                self._suspensions.labels_needed.set()
            self._worker.stop_unwanted()
            self._worker.enqueue(self._pods.nodes())
