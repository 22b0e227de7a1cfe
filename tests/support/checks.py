"""Checks on the fake API server: a result store in memory, and workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from gpuid_operator.api.inventory import CheckStatus
from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.checks.pods import CheckPods
from gpuid_operator.engine.checks.worker import CheckWorker
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS, Timings
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.events import EventType
from gpuid_operator.plan.checks import CheckResult, with_result
from gpuid_operator.plan.restarts import CheckOnNode, with_restart
from tests.support import clock
from tests.support.kube import EVENTS, FakeKube
from tests.support.objects import CONTAINER, LABEL, NAMESPACE, pod_path, put_pod

SOURCE = PodSelector(NAMESPACE, "=".join(LABEL))

RESULTS = ("command executed successfully", "command failed")


def job(name: str = "c", **fields: Any) -> CheckJob:
    """A check that runs once an hour in the pods of the device plugin."""
    given: dict[str, Any] = {
        "source": SOURCE,
        "container": CONTAINER,
        "command": f"run-{name}",
        "timeout": timedelta(seconds=30),
        "interval": timedelta(hours=1),
        "restart": False,
    }
    return CheckJob(name=name, **(given | fields))


class MemoryResultStore:
    """Stores results in memory. Nothing else writes them unless a test does."""

    def __init__(self, *jobs: CheckJob) -> None:
        self.wanted = list(jobs)
        self.suspended: set[str] = set()
        self.checks: dict[tuple[str, str], CheckStatus] = {}
        self.absent: set[str] = set()
        self.results: list[tuple[str, CheckResult]] = []
        self.events: list[tuple[str, str, str]] = []
        """Node, reason and message of each Event."""
        self.refreshed = 0
        self.on_refresh: Callable[[], object] = lambda: None
        self.errors: list[Exception] = []
        """The next writes raise these, one each."""
        self.stale = False
        """Another client changed the check: no restart can be stored."""

    def jobs(self, node: str) -> Sequence[CheckJob]:
        return () if node in self.suspended else tuple(self.wanted)

    def check(self, node: str, name: str) -> CheckStatus | None:
        return self.checks.get((node, name))

    def known(self) -> Sequence[CheckOnNode]:
        return [
            CheckOnNode(node, check, present=node not in self.absent)
            for (node, _), check in self.checks.items()
        ]

    async def refresh(self) -> None:
        self.refreshed += 1
        self.on_refresh()
        await asyncio.sleep(0.1)

    async def record(self, node: str, result: CheckResult) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.results.append((node, result))
        before = self.checks.get((node, result.name))
        self.checks[node, result.name] = with_result(before, result)

    async def record_restart(self, node: str, name: str, *, now: datetime) -> bool:
        if self.errors:
            raise self.errors.pop(0)
        await asyncio.sleep(0.1)
        known = self.checks.get((node, name))
        since = known.last_restart_time if known else None
        after = with_restart(known, since=since, now=now)
        if after is None or self.stale:
            return False
        self.checks[node, name] = after
        return True

    def record_event(self, node: str, *, reason: str, message: str, type: EventType) -> None:  # noqa: A002
        assert type is EventType.WARNING
        self.events.append((node, reason, message))

    def reasons(self, node: str) -> list[str]:
        return [reason for name, reason, _ in self.events if name == node]

    def fail(self, node: str, name: str = "c", **fields: Any) -> None:
        """Store a failure, as another instance may have done."""
        given: dict[str, Any] = {"passed": False, "last_run_time": clock.START}
        self.checks[node, name] = CheckStatus(name=name, **(given | fields))


class Bench:
    """The workers of some checks on the fake API server."""

    def __init__(
        self,
        kube: FakeKube,
        *jobs: CheckJob,
        workers: int = 2,
        slots: int | None = None,
        per_hour: int = 20,
        timings: Timings = DEFAULT_TIMINGS,
    ) -> None:
        self.kube = kube
        self.results = MemoryResultStore(*jobs)
        self.pods = CheckPods()
        self.pods.follow(jobs)
        self.worker = CheckWorker(
            kube,
            pods=self.pods,
            results=self.results,
            slots=asyncio.Semaphore(slots or workers),
            workers=workers,
            per_hour=per_hour,
            timings=timings,
            clock=clock.now,
        )
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for loop in self.worker.loops():
            work = loop()
            assert isinstance(work, Coroutine)
            self._tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def pod(self, node: str, **fields: Any) -> dict[str, Any]:
        """Create or change the pod of a node, and pass its event to the workers."""
        body = put_pod(self.kube, node, **fields)
        self.worker.enqueue(self.pods.put(SOURCE, body, deleted=False))
        return body

    def gone(self, body: dict[str, Any]) -> None:
        self.worker.enqueue(self.pods.put(SOURCE, body, deleted=True))

    def commands(self, node: str) -> list[str]:
        """The commands that ran on a node so far."""
        calls = self.kube.exec.calls
        return [call.command[-1] for call in calls if call.pod == f"plugin-{node}"]

    def times(self, node: str) -> list[float]:
        """When they ran, in seconds of the loop's clock."""
        return [call.time for call in self.kube.exec.calls if call.pod == f"plugin-{node}"]


@asynccontextmanager
async def working(bench: Bench) -> Any:
    """The workers run within the block."""
    bench.start()
    try:
        yield bench
    finally:
        await bench.stop()


async def in_hours(done: Callable[[], object], hours: float) -> None:
    """Like `until`, but looks only every ten seconds: for what takes hours."""
    for _ in range(int(hours * 360)):
        if done():
            return
        await asyncio.sleep(10)
    raise AssertionError("it did not come about")


def event_messages(kube: FakeKube, reason: str) -> list[str]:
    """The messages of the posted Events of a reason."""
    return [
        body["message"]
        for path, body in kube.objects.items()
        if path.startswith(EVENTS) and body["reason"] == reason
    ]


def deletes(kube: FakeKube, node: str = "") -> list[float]:
    """When the pods of a node, or of all nodes, were deleted, in seconds of the loop's clock."""
    return [one.time for one in kube.asked("DELETE", f"/pods/plugin-{node}")]


class Controller:
    """Replaces deleted pods, as a DaemonSet does."""

    def __init__(self, bench: Bench, *nodes: str, after: float = 2.0) -> None:
        self._bench = bench
        self._after = after
        self._bodies = {node: bench.pod(node) for node in nodes}
        self._numbers = dict.fromkeys(nodes, 1)

    async def run(self) -> None:
        while True:
            for node, body in list(self._bodies.items()):
                if pod_path(f"plugin-{node}") not in self._bench.kube.objects:
                    self._bench.gone(body)
                    self._numbers[node] += 1
                    await asyncio.sleep(self._after)
                    started = clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
                    self._bodies[node] = self._bench.pod(
                        node, number=self._numbers[node], started=started
                    )
            await asyncio.sleep(1)
