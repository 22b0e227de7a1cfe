"""Runs checks: decides what is due on a node, executes it, notes the result, restarts what fails.

Two instances use it: the inventory's, for the checks of policies, and the check runner of the
environment. Where results are kept is the affair of their `CheckResultStore`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from gpuid_operator.engine.checks.execution import CheckInconclusive, CheckOutput, execute
from gpuid_operator.engine.checks.job import CheckJob, CheckResultStore
from gpuid_operator.engine.checks.pods import CheckPods
from gpuid_operator.engine.checks.restarts import Restarts
from gpuid_operator.engine.core.background import Loop
from gpuid_operator.engine.core.work_queue import WorkQueue
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.checks import CheckResult, check_due, kept_output
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_TRIES: Final = 3
"""Runs without an answer after which that is the answer, where it may be one."""

_STUMBLED: Final = 30.0


@dataclass(slots=True)
class _Memory:
    """What this process knows of a check on a node, beyond the last result."""

    container: str
    """The containerID of the last run; another one is asked at once."""
    troubles: int = 0
    """Runs in a row without an answer, or which hung, or whose result was not noted."""
    not_before: datetime | None = None
    """The end of the back-off that they asked for."""
    again: datetime | None = None
    """When to run it although its interval has not passed."""


class CheckWorker:
    """The queue of nodes whose checks may be due, and the workers that run them."""

    def __init__(
        self,
        client: KubeClient,
        *,
        pods: CheckPods,
        results: CheckResultStore,
        slots: asyncio.Semaphore,
        workers: int,
        per_hour: int,
        clock: Callable[[], datetime],
    ) -> None:
        """`slots` bounds the execs of the whole process, `workers` those of checks."""
        self._client = client
        self._pods = pods
        self._results = results
        self._slots = slots
        self._workers = workers
        self._clock = clock
        self._restarts = Restarts(client, results=results, per_hour=per_hour, clock=clock)
        self._queue: WorkQueue[str] = WorkQueue()
        self._memory: dict[tuple[str, str], _Memory] = {}
        self._running: dict[str, tuple[CheckJob, asyncio.Task[None]]] = {}

    def add(self, nodes: Iterable[str]) -> None:
        """These nodes' checks may be due."""
        for node in nodes:
            self._queue.add(node)

    def stop_unwanted(self) -> None:
        """End the runs of checks that their nodes have no more, such as suspended ones."""
        for node, (job, task) in self._running.items():
            if job not in self._results.jobs(node):
                task.cancel()

    def prune(self, nodes: Container[str]) -> None:
        """Drop what is remembered of all other nodes."""
        self._memory = {key: kept for key, kept in self._memory.items() if key[0] in nodes}
        self._restarts.prune(nodes)

    def loops(self) -> list[Loop]:
        """The workers."""
        return [partial(self._work, number) for number in range(self._workers)]

    async def _work(self, worker: int) -> None:
        while True:
            node = await self._queue.get()
            try:
                await self._run_due(node, worker)
                wait = self._next(node)
            except Exception:
                # Whatever it was, it concerns this node; the others must go on.
                _log.exception("the checks of a node stumbled", node=node)
                wait = _STUMBLED
            finally:
                self._queue.done(node)
            if wait is not None:
                self._queue.add(node, wait)

    def _next(self, node: str) -> float | None:
        """Seconds until a check of the node is due; None: not before something happens."""
        times = [at for job in self._results.jobs(node) if (at := self._due(job, node)) is not None]
        return (min(times) - self._clock()).total_seconds() if times else None

    def _due(self, job: CheckJob, node: str) -> datetime | None:
        pod = self._pods.pod(job, node)
        if pod is None:
            return None
        memory = self._memory.get((node, job.name))
        asked = None if memory is None else memory.container == pod.container_id
        at = check_due(
            self._results.check(node, job.name),
            digest=job.digest,
            pod=f"{pod.namespace}/{pod.name}",
            started=pod.started_at,
            asked=asked,
            interval=job.interval,
            node=node,
            now=self._clock(),
        )
        if memory is None or not asked:
            return at
        if memory.again is not None:
            at = memory.again if at is None else min(at, memory.again)
        if memory.not_before is not None and at is not None:
            at = max(at, memory.not_before)
        return at

    async def _run_due(self, node: str, worker: int) -> None:
        for job in self._results.jobs(node):
            pod, at = self._pods.pod(job, node), self._due(job, node)
            if pod is None or at is None or at > self._clock():
                continue
            task = asyncio.create_task(self._run(job, node, pod, worker))
            self._running[node] = job, task
            try:
                await asyncio.wait([task])
            finally:
                task.cancel()
                del self._running[node]
            if not task.cancelled():
                task.result()

    async def _run(self, job: CheckJob, node: str, pod: TargetPod, worker: int) -> None:
        memory = self._memory.get((node, job.name))
        if memory is None or memory.container != pod.container_id:
            memory = self._memory[node, job.name] = _Memory(pod.container_id)
        lasting = False
        try:
            async with self._slots:
                answer = await execute(self._client, job, pod)
        except CheckInconclusive as error:
            words = "a check had no answer"
            _log.warning(words, check=job.name, node=node, pod=pod.name, error=error.message)
            self._trouble(memory)
            if error.answer is None or memory.troubles < _TRIES:
                return
            answer, lasting = error.answer, True
        result = self._result(job, pod, answer)
        _log_result(result, node=node, pod=pod, worker=worker)
        try:
            await self._results.record(node, result)
            if answer.hung:
                # It may run still: no second one is to join it soon.
                self._trouble(memory, at_once=False)
            elif not lasting:
                memory.troubles, memory.not_before, memory.again = 0, None, None
            if result.passed:
                self._restarts.passed(node, job.name)
            elif job.restart and answer.blames_pod:
                wait = await self._restarts.enqueue(job, node, pod)
                memory.again = None if wait is None else self._clock() + wait
        except KubeError as error:
            _log.warning("a check was not noted", check=job.name, node=node, error=error.message)
            self._trouble(memory)

    def _trouble(self, memory: _Memory, *, at_once: bool = True) -> None:
        """Back off; with `at_once`, run it again when that is over, else when it is due then."""
        memory.troubles += 1
        chance = random.random()  # noqa: S311 - jitter, no secret
        memory.not_before = self._clock() + backoff(memory.troubles, chance=chance)
        memory.again = memory.not_before if at_once else None

    def _result(self, job: CheckJob, pod: TargetPod, answer: CheckOutput) -> CheckResult:
        return CheckResult(
            name=job.name,
            digest=job.digest,
            passed=answer.passed,
            exit_code=answer.exit_code,
            stdout=kept_output(answer.stdout),
            stderr=kept_output(answer.stderr),
            pod=f"{pod.namespace}/{pod.name}",
            time=self._clock(),
            started=pod.started_at,
        )


def _log_result(result: CheckResult, *, node: str, pod: TargetPod, worker: int) -> None:
    write, words = (
        (_log.info, "command executed successfully")
        if result.passed
        else (_log.error, "command failed")
    )
    write(
        words,
        worker_id=worker,
        check=result.name,
        node=node,
        pod=pod.name,
        uid=pod.uid,
        container=pod.container,
        exit_code=result.exit_code,
        stdout=result.stdout,
        stderr=result.stderr,
    )
