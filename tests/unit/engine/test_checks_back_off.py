"""Inconclusive checks, hangs and results that cannot be stored: retries with back-off."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest

from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.kube.errors import ApiUnreachable, KubeError
from gpuid_operator.plan.schedule import BACKOFF_FIRST, BACKOFF_MAX
from tests.support import clock
from tests.support.checks import Bench, in_hours, job, working
from tests.support.engines import until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube, forbidden

HOUR = 3600.0


def waits(bench: Bench, node: str = "n1") -> list[float]:
    return [after - before for before, after in pairwise(bench.times(node))]


async def test_an_error_that_never_counts_backs_off_and_stores_no_result(
    kube: FakeKube,
) -> None:
    bench = Bench(kube, job())
    kube.exec.answer = ExecAnswer(refusal=forbidden())
    async with working(bench):
        bench.pod("n1")
        await in_hours(lambda: len(bench.times("n1")) == 12, 24)
        assert bench.results.results == []
        first, most = BACKOFF_FIRST.total_seconds(), BACKOFF_MAX.total_seconds()
        for number, wait in enumerate(waits(bench)):
            bound = min(most, first * 2**number)
            assert bound / 2 <= wait <= bound + 0.1
        kube.exec.answer = ExecAnswer()
        await in_hours(lambda: bench.results.results, 2)
        # The success ends the back-off: the interval counts again.
        await asyncio.sleep(HOUR / 2)
        assert len(bench.results.results) == 1


async def test_a_persistent_exec_error_counts_as_a_failure_after_three_runs(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(kube, job(restart=True))
    kube.exec.answer = ExecAnswer(stdout=b"half", cut=True)
    async with working(bench):
        bench.pod("n1")
        await until(lambda: len(bench.times("n1")) == 2)
        await asyncio.sleep(0.1)
        assert bench.results.results == []
        await until(lambda: bench.results.results)
    assert len(bench.times("n1")) == 3
    ((_, result),) = bench.results.results
    assert (result.passed, result.exit_code, result.stdout) == (False, None, "half")
    assert "was interrupted" in result.stderr
    # Such an error does not blame the pod, so the pod is not restarted.
    assert bench.results.events == [] and not kube.asked("DELETE", "pods")
    names = [one.fields["check"] for one in caplog.records if hasattr(one, "fields")]
    assert names.count("c") == 4


async def test_a_persistent_exec_error_is_retried_before_the_interval_ends(kube: FakeKube) -> None:
    bench = Bench(kube, job(interval=timedelta(hours=24)))
    kube.exec.answer = ExecAnswer(cut=True)
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.results)
        kube.exec.answer = ExecAnswer()
        await until(lambda: len(bench.results.results) == 2, within=600)
        await asyncio.sleep(HOUR)
    assert [result.passed for _, result in bench.results.results] == [False, True]


async def test_runs_that_hang_back_off(kube: FakeKube) -> None:
    """The command may still run; an interval of a second must not start more and more of them."""
    bench = Bench(kube, job(timeout=timedelta(seconds=5), interval=timedelta(seconds=1)))
    kube.exec.answer = ExecAnswer(hang=True)
    async with working(bench):
        bench.pod("n1")
        await until(lambda: len(bench.times("n1")) == 6, within=600)
    assert len(bench.results.results) >= 5
    assert all(result.exit_code is None for _, result in bench.results.results)
    assert all(after > before for before, after in pairwise(waits(bench)[2:]))


async def test_a_hang_does_not_bring_the_next_run_forward(kube: FakeKube) -> None:
    bench = Bench(kube, job(timeout=timedelta(seconds=5)))
    kube.exec.answer = ExecAnswer(hang=True)
    async with working(bench):
        bench.pod("n1")
        await asyncio.sleep(HOUR - 60)
    assert len(bench.times("n1")) == 1


@pytest.mark.parametrize("days", [-1, 1])
async def test_the_back_off_does_not_depend_on_the_wall_clock(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    bench = Bench(kube, job())
    kube.exec.answer = ExecAnswer(refusal=forbidden())
    async with working(bench):
        bench.pod("n1")
        await in_hours(lambda: len(bench.times("n1")) == 10, 24)
        monkeypatch.setattr(clock, "START", clock.START + timedelta(days=days))
        bench.worker.enqueue(["n1"])
        await in_hours(lambda: len(bench.times("n1")) == 11, 24)
    assert BACKOFF_MAX.total_seconds() / 2 <= waits(bench)[-1] <= BACKOFF_MAX.total_seconds() + 0.1


async def test_another_container_ends_the_back_off(kube: FakeKube) -> None:
    bench = Bench(kube, job())
    kube.exec.answer = ExecAnswer(refusal=forbidden())
    async with working(bench):
        bench.pod("n1")
        await in_hours(lambda: len(bench.times("n1")) == 8, 24)
        kube.exec.answer = ExecAnswer()
        bench.pod("n1", number=2)
        await until(lambda: bench.results.results, within=0.5)


async def test_a_check_runs_again_if_its_result_was_not_stored(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(kube, job())
    bench.results.errors = [ApiUnreachable("no answer"), KubeError("refused")]
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.results)
    assert len(bench.times("n1")) == 3
    assert waits(bench)[1] > waits(bench)[0]
    lines = [one for one in caplog.records if getattr(one, "fields", {}).get("error")]
    assert [one.fields["error"] for one in lines] == ["no answer", "refused"]  # type: ignore[attr-defined]


async def test_an_unexpected_error_affects_one_node_and_is_retried(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(kube, job(), workers=1)
    bench.results.errors = [ValueError("unforeseen")]
    async with working(bench):
        bench.pod("n1")
        bench.pod("n2")
        await until(lambda: len(bench.results.results) == 2, within=60)
    assert [node for node, _ in bench.results.results] == ["n2", "n1"]
    assert bench.times("n1")[1] - bench.times("n1")[0] >= 30
    (line,) = [one for one in caplog.records if one.exc_info]
    assert line.fields == {"node": "n1"}  # type: ignore[attr-defined]


async def test_an_error_in_the_decision_ends_no_worker(kube: FakeKube) -> None:
    bench = Bench(kube, job(), workers=1)
    jobs, faults = bench.results.jobs, [ValueError("unforeseen")]

    def faulty(node: str) -> tuple[CheckJob, ...]:
        if faults:
            raise faults.pop()
        return tuple(jobs(node))

    bench.results.jobs = faulty  # type: ignore[method-assign]
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.results, within=60)
    assert bench.times("n1")[0] >= 30
