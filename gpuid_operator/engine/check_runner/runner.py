"""The check runner: an instance that runs one command on each node, and keeps no inventory.

It works beside an inventory instance or without one; of policies it obeys `suspend`.
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

_PAUSE: Final = 5.0


class CheckRunner:
    """One check of the environment on all nodes that have a pod for it."""

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
        self._client = client
        self._job = job
        self._resync_period = timings.resync.total_seconds()
        self._pods = CheckPods()
        self._pods.want([job])
        self._suspensions = Suspensions(client, nodes=self._pods.nodes)
        self._results = RunnerResultStore(
            client,
            job,
            pods=self._pods,
            suspended=lambda node: suspended or self._suspensions.holds(node),
            metrics=metrics,
        )
        self._runs = CheckWorker(
            client,
            pods=self._pods,
            results=self._results,
            slots=asyncio.Semaphore(workers),
            workers=workers,
            per_hour=per_hour,
            clock=clock,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self.sources_changed = asyncio.Event()
        """Never set: the one source stays."""
        self.kinds_gone = asyncio.Event()
        """Never set: inventories are not watched."""

    @property
    def sources(self) -> tuple[PodSelector, ...]:
        return (self._job.source,)

    async def start(self) -> None:
        """List what is known, then begin. Raises KubeError."""
        await self._list()
        loops: list[Loop] = [*self._runs.loops(), self._resync_for_ever, self._follow_policies]
        self._tasks += [asyncio.create_task(run_forever(loop)) for loop in loops]

    async def stop(self, *, within: float) -> None:
        """Stop; what is being run is given up within that many seconds."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within * 0.8)
        await self._results.finish(within=within * 0.2)

    def watch_begins(self) -> None:
        """Nothing hangs on it: what went unseen is found by the next re-sync."""

    def count(self) -> None:
        """No metric of a check runner is counted."""

    def pod_event(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> None:
        nodes = self._pods.put(source, body, deleted=deleted)
        if nodes:
            self._suspensions.nodes_came()
        self._runs.add(nodes)

    def policy_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        self._suspensions.policy_event(body, deleted=deleted)

    async def _list(self) -> None:
        await list_check_pods(self._client, self._pods, self._job.source)
        await self._suspensions.look()
        await self._results.refresh()
        self._runs.stop_unwanted()
        nodes = self._pods.nodes()
        self._runs.prune(nodes)
        self._runs.add(nodes)

    async def _resync_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._resync_period)
            try:
                await self._list()
            except KubeError as error:
                _log.warning("the re-sync failed", error=error.message)
            except Exception:
                _log.exception("the re-sync failed")

    async def _follow_policies(self) -> None:
        while True:
            await self._suspensions.news.wait()
            self._suspensions.news.clear()
            try:
                await self._suspensions.learn()
            except KubeError as error:
                _log.warning("labels of nodes could not be read", error=error.message)
                await asyncio.sleep(_PAUSE)
                self._suspensions.news.set()
            self._runs.stop_unwanted()
            self._runs.add(self._pods.nodes())
