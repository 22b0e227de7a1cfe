"""Runs the checks that are due, stores the results, and restarts pods whose check fails.

The engine uses it for the checks of policies, and the check runner for its own check. They differ
in their CheckResultStore.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from gpuid_operator.engine.checks.attempts import AttemptCache
from gpuid_operator.engine.checks.execution import CheckInconclusive, CheckOutput, execute
from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.checks.pods import CheckPods
from gpuid_operator.engine.checks.restarts import Restarts
from gpuid_operator.engine.checks.result_store import CheckResultStore
from gpuid_operator.engine.core.background import Loop
from gpuid_operator.engine.core.options import Timings
from gpuid_operator.engine.core.turns import pause
from gpuid_operator.engine.core.work_queue import WorkQueue
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.check_due import CheckPlacement, next_run_at
from gpuid_operator.plan.checks import CheckResult, kept_output
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_MAX_INCONCLUSIVE: Final = 3
"""Consecutive inconclusive runs after which the error counts as the result, if it can."""

_ERROR_PAUSE: Final = 30.0
"""Seconds until a node is tried again after an unexpected error."""


@dataclass(frozen=True, slots=True)
class _NextRun:
    at: datetime
    pod: TargetPod


class CheckWorker:
    """A queue of nodes, and workers that run the checks that are due there, one at a time per
    node."""

    def __init__(
        self,
        client: KubeClient,
        *,
        pods: CheckPods,
        results: CheckResultStore,
        slots: asyncio.Semaphore,
        workers: int,
        per_hour: int,
        timings: Timings,
        clock: Callable[[], datetime],
    ) -> None:
        """`slots` limits the execs of the process, `workers` those of checks; `per_hour` limits
        the restarts."""
        self._client = client
        self._pods = pods
        self._results = results
        self._slots = slots
        self._workers = workers
        self._clock = clock
        self._restarts = Restarts(
            client, results=results, per_hour=per_hour, timings=timings, clock=clock
        )
        self._queue: WorkQueue[str] = WorkQueue()
        self._attempts = AttemptCache(clock)
        self._running: dict[str, tuple[CheckJob, asyncio.Task[None]]] = {}

    def enqueue(self, nodes: Iterable[str]) -> None:
        """Look for due checks on these nodes."""
        for node in nodes:
            self._queue.add(node)

    def stop_unwanted(self) -> None:
        """Cancel the runs of checks that their nodes no longer have, for example because of a
        suspension."""
        for node, (job, task) in self._running.items():
            if job not in self._results.jobs(node):
                task.cancel()

    def prune(self, nodes: Container[str]) -> None:
        """Forget all other nodes."""
        self._attempts.prune(nodes)
        self._restarts.prune(nodes)

    def loops(self) -> list[Loop]:
        """The workers."""
        return [partial(self._work, number) for number in range(self._workers)]

    async def _work(self, worker: int) -> None:
        while True:
            node = await self._queue.get()
            try:
                await self._run_due(node, worker)
                wait = self._seconds_to_next_run(node)
            except Exception:
                # The error concerns this node; the other nodes must go on.
                _log.exception("failed to run the checks of a node; retrying", node=node)
                wait = _ERROR_PAUSE
            finally:
                self._queue.done(node)
            if wait is not None:
                self._queue.add(node, wait)
            await pause()  # a node for which nothing is due waits for nothing

    async def _run_due(self, node: str, worker: int) -> None:
        for job in self._results.jobs(node):
            # Looked up for each check: a run takes time, and may end with a suspension.
            run = self._next_run(job, node) if job in self._results.jobs(node) else None
            if run is not None and run.at <= self._clock():
                await self._run_cancellable(job, run.pod, worker)

    def _seconds_to_next_run(self, node: str) -> float | None:
        """Seconds until a check of the node is due; None: not before an event."""
        runs = [self._next_run(job, node) for job in self._results.jobs(node)]
        times = [run.at for run in runs if run is not None]
        return (min(times) - self._clock()).total_seconds() if times else None

    def _next_run(self, job: CheckJob, node: str) -> _NextRun | None:
        """When a check runs next, and in which pod; None: not before an event."""
        pod = self._pods.find(job, node)
        if pod is None:
            return None
        placement = CheckPlacement(
            node=node,
            digest=job.digest,
            interval=job.interval,
            pod=_full_name(pod),
            container_id=pod.container_id,
            started=pod.started_at,
        )
        last = self._results.check(node, job.name)
        attempts = self._attempts.find(job, node)
        at = next_run_at(last, placement, attempts, now=self._clock())
        return None if at is None else _NextRun(at, pod)

    async def _run_cancellable(self, job: CheckJob, pod: TargetPod, worker: int) -> None:
        """Run a check in a task that `stop_unwanted` can cancel without ending the worker."""
        task = asyncio.create_task(self._run(job, pod, worker))
        self._running[pod.node] = job, task
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            del self._running[pod.node]
        if not task.cancelled():
            task.result()

    async def _run(self, job: CheckJob, pod: TargetPod, worker: int) -> None:
        inconclusive = False
        try:
            async with self._slots:
                output = await execute(self._client, job, pod)
        except CheckInconclusive as error:
            _log.warning(
                "failed to run check; retrying",
                check=job.name,
                node=pod.node,
                pod=pod.name,
                error=error.message,
            )
            failures = self._attempts.failed(job, pod)
            if error.output is None or failures < _MAX_INCONCLUSIVE:
                return
            output, inconclusive = error.output, True
        result = self._result(job, pod, output)
        _log_result(result, pod=pod, worker=worker)
        try:
            await self._results.record(pod.node, result)
            if output.hung:
                # The command may still run; a second one must not join it soon.
                self._attempts.failed(job, pod, retry=False)
            elif not inconclusive:
                self._attempts.succeeded(job, pod)
            await self._restart_if_failed(job, pod, output)
        except KubeError as error:
            _log.warning(
                "failed to store check result; retrying",
                check=job.name,
                node=pod.node,
                error=error.message,
            )
            self._attempts.failed(job, pod)

    async def _restart_if_failed(self, job: CheckJob, pod: TargetPod, output: CheckOutput) -> None:
        """Restart the pod of a failed check if the job asks for it and the guards allow it."""
        if output.passed:
            self._restarts.passed(pod.node, job.name)
        elif job.restart and output.blames_pod:
            wait = await self._restarts.restart(job, pod)
            self._attempts.run_again_in(wait, job, pod)

    def _result(self, job: CheckJob, pod: TargetPod, output: CheckOutput) -> CheckResult:
        return CheckResult(
            name=job.name,
            digest=job.digest,
            passed=output.passed,
            exit_code=output.exit_code,
            stdout=kept_output(output.stdout),
            stderr=kept_output(output.stderr),
            pod=_full_name(pod),
            time=self._clock(),
            started=pod.started_at,
        )


def _full_name(pod: TargetPod) -> str:
    return f"{pod.namespace}/{pod.name}"


def _log_result(result: CheckResult, *, pod: TargetPod, worker: int) -> None:
    # Users of gpuid parse both messages.
    write, message = (
        (_log.info, "command executed successfully")
        if result.passed
        else (_log.error, "command failed")
    )
    write(
        message,
        worker_id=worker,
        check=result.name,
        node=pod.node,
        pod=pod.name,
        uid=pod.uid,
        container=pod.container,
        exit_code=result.exit_code,
        stdout=result.stdout,
        stderr=result.stderr,
    )
