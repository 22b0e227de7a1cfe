"""The guards of restarts: when the pod of a failed check is not restarted, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import pytest

from gpuid_operator.engine.checks.restarts import SUMMARY_AGE, Restarts
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS, Timings
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.restarts import CheckOnNode
from tests.support import clock
from tests.support.checks import (
    Bench,
    Controller,
    MemoryResultStore,
    deletes,
    in_hours,
    job,
    working,
)
from tests.support.engines import until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube
from tests.support.objects import CONTAINER, put_pod

HOUR = 3600.0
FAILED = ExecAnswer(exit_code=1)


def bench_of(kube: FakeKube, per_hour: int = 20) -> Bench:
    return Bench(kube, job(restart=True, interval=timedelta(seconds=30)), per_hour=per_hour)


async def test_a_node_is_left_alone_for_ten_minutes(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    async with working(bench):
        controller = asyncio.create_task(Controller(bench, "n1").run())
        await in_hours(lambda: len(deletes(kube)) == 3, 1)
        await asyncio.sleep(2 * HOUR)
        controller.cancel()
    first, second, third = deletes(kube)
    for wait in (second - first, third - second):
        assert 600 <= round(wait, 3) <= 640
    # After three restarts in a row there are no more.
    assert bench.results.reasons("n1").count("PodRestarted") == 3
    assert bench.results.reasons("n1")[-1] == "RestartsExhausted"


@pytest.mark.parametrize("days", [-1, 1])
async def test_the_pause_between_restarts_does_not_depend_on_the_wall_clock(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    async with working(bench):
        controller = asyncio.create_task(Controller(bench, "n1").run())
        await in_hours(lambda: len(deletes(kube)) == 1, 1)
        await asyncio.sleep(60)
        monkeypatch.setattr(clock, "START", clock.START + timedelta(days=days))
        await in_hours(lambda: len(deletes(kube)) == 2, 1)
        controller.cancel()
    first, second = deletes(kube)
    assert 600 <= round(second - first, 3) <= 640


async def test_a_pass_resets_the_count_of_restarts_in_a_row(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    bench.results.fail("n1", restarts=3)
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.events)
        assert bench.results.reasons("n1") == ["RestartsExhausted"]
        kube.exec.answer = ExecAnswer()
        await until(lambda: bench.results.results[-1][1].passed)
        kube.exec.answer = FAILED
        await until(lambda: deletes(kube), within=120)


async def test_restarts_happen_one_at_a_time_in_the_cluster(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    for number in range(30):
        bench.results.fail(f"h{number}", passed=True)
    async with working(bench):
        controller = asyncio.create_task(Controller(bench, "n1", "n2", after=100.0).run())
        await in_hours(lambda: len(deletes(kube)) == 2, 1)
        controller.cancel()
    first, second = deletes(kube)
    # The second follows soon after a run has shown the effect of the first.
    assert 100 <= second - first <= 200
    refused = [message for _, reason, message in bench.results.events if reason == "RestartRefused"]
    assert any("one at a time" in message for message in refused)


async def test_restarts_by_other_instances_count(kube: FakeKube) -> None:
    """Each restart refreshes the results first."""
    kube.exec.answer = FAILED
    bench = bench_of(kube)

    def restarted() -> None:
        since = clock.START - timedelta(minutes=1)
        bench.results.fail("n9", "other", last_restart_time=clock.now(), last_run_time=since)

    bench.results.on_refresh = restarted
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.events)
    assert bench.results.reasons("n1") == ["RestartRefused"]
    assert deletes(kube) == []


async def test_restarts_per_hour_limit_all_nodes_together(
    kube: FakeKube,
) -> None:
    kube.exec.answer = FAILED
    bench = Bench(kube, job(restart=True, interval=timedelta(hours=24)), per_hour=2)
    for number in range(50):
        bench.results.fail(f"h{number}", passed=True)
    nodes = ["n1", "n2", "n3"]
    async with working(bench):
        controller = asyncio.create_task(Controller(bench, *nodes).run())
        await in_hours(lambda: len(deletes(kube)) == 3, 2)
        controller.cancel()
    first, _, third = deletes(kube)
    assert HOUR <= third - first <= HOUR + 60
    refused = [message for _, reason, message in bench.results.events if reason == "RestartRefused"]
    assert any("RESTARTS_PER_HOUR allows 2" in message for message in refused)


async def test_a_limit_of_zero_allows_no_restarts(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube, per_hour=0)
    async with working(bench):
        bench.pod("n1")
        await asyncio.sleep(HOUR)
    assert deletes(kube) == []
    assert set(bench.results.reasons("n1")) == {"RestartRefused"}


async def test_failures_on_many_nodes_halt_restarts(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    for number in range(3):
        bench.results.fail(f"bad{number}")
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.events)
        assert bench.results.reasons("n1") == ["RestartsHalted"]
        # Nodes that are gone do not count.
        bench.results.absent = {"bad0", "bad1", "bad2"}
        await until(lambda: deletes(kube), within=120)


async def test_a_pod_without_a_controller_is_never_deleted(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    async with working(bench):
        bench.pod("n1", controlled=False)
        await until(lambda: len(bench.results.events) == 3, within=300)
    assert deletes(kube) == []
    assert set(bench.results.reasons("n1")) == {"RestartRefused"}


async def test_restarts_that_no_status_shows_any_more_count_for_the_hour(
    kube: FakeKube,
) -> None:
    """The status of a check contains only its last restart."""
    kube.exec.answer = FAILED
    bench = bench_of(kube, per_hour=3)
    note: Callable[..., object] = bench.results.record_restart

    async def passing(node: str, name: str, *, now: datetime) -> bool:
        noted = await note(node, name, now=now)  # type: ignore[misc]
        check = bench.results.checks[node, name]
        bench.results.checks[node, name] = check.model_copy(update={"restarts": 0})
        return bool(noted)

    bench.results.record_restart = passing  # type: ignore[method-assign]
    async with working(bench):
        controller = asyncio.create_task(Controller(bench, "n1").run())
        await in_hours(lambda: len(deletes(kube)) == 4, 2)
        controller.cancel()
    times = deletes(kube)
    assert times[3] - times[0] >= HOUR


async def test_the_timings_of_the_operator_set_the_pauses(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    pauses = Timings(restart_pause=timedelta(minutes=1), restart_retry=timedelta(seconds=5))
    checks = job(restart=True, interval=timedelta(seconds=30))
    bench = Bench(kube, checks, timings=pauses)
    async with working(bench):
        controller = asyncio.create_task(Controller(bench, "n1").run())
        await until(lambda: len(deletes(kube)) == 2)
        controller.cancel()
    first, second = deletes(kube)
    assert 59 <= second - first <= 100


class CountingStore(MemoryResultStore):
    """Counts how often somebody looks through the checks of all nodes."""

    looks = 0

    def known(self) -> Sequence[CheckOnNode]:
        self.looks += 1
        return super().known()


def restarts_of(kube: FakeKube, results: MemoryResultStore) -> Restarts:
    return Restarts(kube, results=results, per_hour=20, timings=DEFAULT_TIMINGS, clock=clock.now)


def pod_of(kube: FakeKube, node: str) -> TargetPod:
    pod = TargetPod.from_pod(put_pod(kube, node), container=CONTAINER)
    assert pod is not None
    return pod


async def test_failures_of_many_nodes_at_once_share_a_look_at_the_cluster(kube: FakeKube) -> None:
    check = job(restart=True)
    results = CountingStore(check)
    nodes = [f"n{number}" for number in range(200)]
    for node in nodes:
        results.fail(node)
    restarts = restarts_of(kube, results)
    for node in nodes:
        await restarts.restart(check, pod_of(kube, node))
        await asyncio.sleep(0.01)
    assert results.looks <= 2
    assert [reason for _, reason, _ in results.events] == ["RestartsHalted"] * 200
    # The nodes recover, and one fails alone.
    for node in nodes[1:]:
        results.fail(node, passed=True)
    await asyncio.sleep(SUMMARY_AGE.total_seconds())
    await restarts.restart(check, pod_of(kube, "n0"))
    assert len(deletes(kube)) == 1


async def test_no_restart_is_allowed_by_an_earlier_look_at_the_cluster(kube: FakeKube) -> None:
    check = job(restart=True)
    results = CountingStore(check)
    results.fail("n0", restarts=3)
    restarts = restarts_of(kube, results)
    await restarts.restart(check, pod_of(kube, "n0"))
    for number in range(1, 50):
        results.fail(f"n{number}")
    await restarts.restart(check, pod_of(kube, "n1"))
    assert results.reasons("n0") == ["RestartsExhausted"]
    assert results.reasons("n1") == ["RestartsHalted"]
    assert deletes(kube) == []
