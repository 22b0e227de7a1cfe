"""Runs checks: decides what is due on a node, executes it, notes the result, restarts what fails.

Two instances use it: the inventory's, for the checks of policies, and the check runner of the
environment. Where results are kept is the affair of their `Book`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from gpuid_operator.api.inventory import CheckStatus
from gpuid_operator.api.meta import MAX_CHECK_OUTPUT
from gpuid_operator.engine.check_pods import CheckJob, CheckPods
from gpuid_operator.engine.queue import WorkQueue
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import (
    Conflict,
    ExecError,
    ExecPodGone,
    ExecTimedOut,
    ExecTooLarge,
    KubeError,
)
from gpuid_operator.kube.events import EventType
from gpuid_operator.kube.exec import pod_exec
from gpuid_operator.kube.pods import TargetPod, delete_pod
from gpuid_operator.plan.checks import (
    CheckResult,
    RestartCase,
    check_due,
    kept_output,
    refusal,
)
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

SHELL: Final = ("/bin/sh", "-c")
MAX_OUTPUT: Final = 256 * 1024
"""Bytes that are read of a check's output, of which status keeps 2 × 4 KiB."""


class Book(Protocol):
    """Where the results of checks are kept."""

    def jobs(self, node: str) -> Sequence[CheckJob]:
        """The checks that are to run on a node now; none while it is suspended."""

    def check(self, node: str, name: str) -> CheckStatus | None:
        """The last result of a check on a node, without its output."""

    def all(self) -> Iterable[CheckStatus]:
        """The last results of all checks on all nodes, without their output."""

    async def note(self, node: str, result: CheckResult) -> None:
        """Keep a result. Raises KubeError."""

    async def note_restart(self, node: str, name: str, *, now: datetime) -> None:
        """Keep that the pod is about to be restarted. Raises KubeError."""

    def tell(self, node: str, *, reason: str, message: str, type: EventType) -> None:  # noqa: A002
        """Post an Event about the node's inventory."""


class CheckRuns:
    """The queue of nodes whose checks may be due, and the workers that run them."""

    def __init__(
        self,
        client: KubeClient,
        *,
        pods: CheckPods,
        book: Book,
        slots: asyncio.Semaphore,
        workers: int,
        per_hour: int,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        """`slots` bounds the execs of the whole process."""
        self._client = client
        self._pods = pods
        self._book = book
        self._slots = slots
        self._workers = workers
        self._per_hour = per_hour
        self._metrics = metrics
        self._clock = clock
        self._queue: WorkQueue[str] = WorkQueue()
        self._retry: dict[tuple[str, str], tuple[int, datetime]] = {}
        self._told: dict[tuple[str, str], str] = {}
        self._restarting = asyncio.Lock()
        self._running: dict[str, asyncio.Task[None]] = {}

    def add(self, nodes: Iterable[str]) -> None:
        """These nodes' checks may be due."""
        for node in nodes:
            self._queue.add(node)

    def stop_unwanted(self) -> None:
        """End the runs on nodes that have no checks any more, such as suspended ones."""
        for node, task in self._running.items():
            if not self._book.jobs(node):
                task.cancel()

    def works(self) -> list[Coroutine[None, None, None]]:
        """The workers, to be run as tasks."""
        return [self._work(number) for number in range(self._workers)]

    async def _work(self, worker: int) -> None:
        while True:
            node = await self._queue.get()
            wait: timedelta | None = None
            run = asyncio.create_task(self._run_due(node, worker))
            self._running[node] = run
            try:
                await asyncio.wait([run])
                if not run.cancelled():
                    run.result()
                wait = self._next(node)
            except KubeError as error:
                _log.warning("a check was not noted", node=node, error=error.message)
                wait = timedelta(seconds=5)
            except asyncio.CancelledError:
                run.cancel()
                raise
            except Exception:
                _log.exception("a check stumbled", node=node)
                wait = timedelta(seconds=30)
            finally:
                del self._running[node]
                self._queue.done(node)
            if wait is not None:
                self._queue.add(node, wait.total_seconds())

    def _next(self, node: str) -> timedelta | None:
        times = [at for job in self._book.jobs(node) if (at := self._due(job, node)) is not None]
        return min(times) - self._clock() if times else None

    def _due(self, job: CheckJob, node: str) -> datetime | None:
        pod = self._pods.pod(job, node)
        if pod is None:
            return None
        retry = self._retry.get((node, job.name))
        if retry is not None:
            return retry[1]
        known = self._book.check(node, job.name)
        return check_due(
            known.last_run_time if known else None,
            started=pod.started_at,
            interval=job.interval,
            node=node,
            now=self._clock(),
        )

    async def _run_due(self, node: str, worker: int) -> None:
        for job in self._book.jobs(node):
            at, pod = self._due(job, node), self._pods.pod(job, node)
            if at is not None and at <= self._clock() and pod is not None:
                await self._run(job, node, pod, worker)

    async def _run(self, job: CheckJob, node: str, pod: TargetPod, worker: int) -> None:
        result = await self._execute(job, pod)
        if result is None:
            failures = self._retry.get((node, job.name), (0, None))[0] + 1
            pause = backoff(failures, chance=random.random())  # noqa: S311 - jitter, no secret
            self._retry[node, job.name] = (failures, self._clock() + pause)
            return
        fields = {
            "worker_id": worker,
            "check": job.name,
            "node": node,
            "pod": pod.name,
            "uid": pod.uid,
            "container": pod.container,
            "stdout": result.stdout,
            "stderr": result.stderr,
            "exit_code": result.exit_code,
        }
        if result.passed:
            _log.info("command executed successfully", **fields)
        else:
            _log.error("command failed", **fields)
        await self._book.note(node, result)
        self._retry.pop((node, job.name), None)
        self._metrics.set_check(node, job.name, passed=result.passed)
        if result.passed:
            self._told.pop((node, job.name), None)
        elif job.restart:
            await self._restart(job, node, pod)

    async def _execute(self, job: CheckJob, pod: TargetPod) -> CheckResult | None:
        """Run a check once; None when that says nothing of the node, and is to be tried again."""
        code: int | None = None
        try:
            async with self._slots:
                done = await pod_exec(
                    self._client,
                    namespace=pod.namespace,
                    pod=pod.name,
                    container=pod.container,
                    command=(*SHELL, job.command),
                    timeout=job.timeout.total_seconds(),
                    max_bytes=MAX_OUTPUT,
                )
            stdout, stderr, code = done.stdout, done.stderr, done.exit_code
        except (ExecTimedOut, ExecTooLarge) as error:
            stdout, stderr = error.stdout, _explained(error)
        except ExecPodGone:
            return None  # the watch brings the next pod
        except ExecError as error:
            stdout, stderr = error.stdout, _explained(error)
        except (KubeError, OSError) as error:
            _log.warning("a check could not be run", check=job.name, pod=pod.name, error=str(error))
            return None
        return CheckResult(
            name=job.name,
            passed=code == 0,
            exit_code=code,
            stdout=kept_output(stdout),
            stderr=kept_output(stderr),
            pod=f"{pod.namespace}/{pod.name}",
            time=self._clock(),
        )

    async def _restart(self, job: CheckJob, node: str, pod: TargetPod) -> None:
        """Delete the pod of a failed check, if the guards let it; either way is an Event."""
        async with self._restarting:
            now = self._clock()
            refused = self._refusal(job, node, pod, now)
            if refused is not None:
                reason, words = refused
                message = f"check {job.name} failed; pod {pod.name} is not restarted: {words}"
                self._book.tell(node, reason=reason, message=message, type=EventType.WARNING)
                if self._told.get((node, job.name)) != reason:
                    self._told[node, job.name] = reason
                    _log.warning("a pod is not restarted", node=node, reason=reason, why=words)
                return
            # First the note: a crash in between costs a restart, never one too many.
            await self._book.note_restart(node, job.name, now=now)
            try:
                await delete_pod(self._client, namespace=pod.namespace, name=pod.name, uid=pod.uid)
            except Conflict:
                return  # another pod has its name: it was replaced meanwhile
            except KubeError as error:
                message = f"pod {pod.name} could not be restarted: {error.message}"
                self._book.tell(
                    node, reason="RestartFailed", message=message, type=EventType.WARNING
                )
                _log.error("a pod could not be restarted", node=node, error=error.message)
                return
            message = f"check {job.name} failed; pod {pod.name} is deleted to be started anew"
            self._book.tell(node, reason="PodRestarted", message=message, type=EventType.WARNING)
            _log.warning("a pod is restarted", node=node, pod=pod.name, check=job.name)

    def _refusal(
        self, job: CheckJob, node: str, pod: TargetPod, now: datetime
    ) -> tuple[str, str] | None:
        everything = list(self._book.all())
        same = [check for check in everything if check.name == job.name]
        known = self._book.check(node, job.name)
        return refusal(
            RestartCase(
                check=known or CheckStatus(name=job.name),
                controlled=pod.controlled,
                others=tuple(everything),
                failing=sum(1 for check in same if check.passed is False),
                nodes=sum(1 for check in same if check.passed is not None),
                per_hour=self._per_hour,
            ),
            now=now,
        )


def _explained(error: ExecError) -> bytes:
    """What the command wrote to stderr, and why there is no exit code."""
    said = error.stderr[-MAX_CHECK_OUTPUT // 2 :]
    return error.message.encode() + (b"\n" + said if said else b"")
