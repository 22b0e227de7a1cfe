"""When checks run: when a pod becomes ready, at intervals, and one at a time per node."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest

from tests.support.checks import RESULTS, Bench, in_hours, job, working
from tests.support.engines import until
from tests.support.fake_exec import ExecAnswer, ExecCall
from tests.support.kube import FakeKube

HOUR = 3600.0


def results(bench: Bench) -> list[tuple[str, str, bool]]:
    return [(node, result.name, result.passed) for node, result in bench.results.results]


async def test_a_check_runs_when_a_pod_becomes_ready_and_at_every_interval(
    kube: FakeKube,
) -> None:
    bench = Bench(kube, job())
    async with working(bench):
        bench.pod("n1", ready=False)
        await asyncio.sleep(10)
        assert bench.times("n1") == []
        bench.pod("n1")
        await asyncio.sleep(3.5 * HOUR)
    times = bench.times("n1")
    assert times[0] == 10.0
    waits = [after - before for before, after in pairwise(times)]
    assert len(waits) == 3
    assert all(HOUR <= wait <= 1.1 * HOUR + 1 for wait in waits)
    assert results(bench) == [("n1", "c", True)] * 4


async def test_without_an_interval_only_another_container_runs_the_check(kube: FakeKube) -> None:
    bench = Bench(kube, job(interval=timedelta(0)))
    async with working(bench):
        bench.pod("n1")
        await asyncio.sleep(100 * HOUR)
        assert len(bench.times("n1")) == 1
        bench.pod("n1", number=2, started="2026-06-11T14:30:45Z")
        await until(lambda: len(bench.times("n1")) == 2)
        bench.worker.enqueue(["n1"])
        await asyncio.sleep(HOUR)
        assert len(bench.times("n1")) == 2


async def test_a_result_contains_what_ran_where_and_when(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bench = Bench(kube, job())
    kube.exec.answer = ExecAnswer(stdout=b"said\n", stderr=b"bad\n", exit_code=3, delay=2.0)
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.results)
    ((node, result),) = bench.results.results
    assert (node, result.name, result.digest) == ("n1", "c", job().digest)
    assert (result.passed, result.exit_code) == (False, 3)
    assert (result.stdout, result.stderr) == ("said", "bad")
    assert result.pod == "gpu-operator/plugin-n1"
    assert result.started is not None and result.time.isoformat() == "2026-06-07T10:30:47+00:00"
    (line,) = [one for one in caplog.records if one.message in RESULTS]
    assert (line.message, line.levelname) == ("command failed", "ERROR")
    fields = line.fields  # type: ignore[attr-defined]
    assert fields.keys() >= {"worker_id", "check", "node", "pod", "uid", "container"}
    assert (fields["exit_code"], fields["stdout"], fields["stderr"]) == (3, "said", "bad")


async def test_transitions_between_pass_and_fail_are_counted(kube: FakeKube) -> None:
    bench = Bench(kube, job())
    codes = iter([0, 1, 1, 0, 1])
    kube.exec.decide = lambda call: ExecAnswer(exit_code=next(codes, 1))
    async with working(bench):
        bench.pod("n1")
        await in_hours(lambda: len(bench.results.results) >= 5, 10)
    check = bench.results.check("n1", "c")
    assert check is not None and (check.passed, check.transitions) == (False, 3)


async def test_the_checks_of_a_node_run_one_after_another(kube: FakeKube) -> None:
    bench = Bench(kube, job("a"), job("b"), job("c"), workers=8)
    kube.exec.answer = ExecAnswer(delay=5.0)
    async with working(bench):
        bench.pod("n1")
        await asyncio.sleep(3)
        bench.pod("n1", ready=True, controlled=False)  # news of a node that is being handled
        await until(lambda: len(bench.results.results) == 3)
    assert bench.commands("n1") == ["run-a", "run-b", "run-c"]
    assert kube.exec.most == 1


@pytest.mark.parametrize(("workers", "slots", "most"), [(2, 8, 2), (8, 3, 3)])
async def test_workers_and_slots_limit_concurrent_runs(
    kube: FakeKube, workers: int, slots: int, most: int
) -> None:
    bench = Bench(kube, job(), workers=workers, slots=slots)
    kube.exec.answer = ExecAnswer(delay=5.0)
    async with working(bench):
        for number in range(10):
            bench.pod(f"n{number}")
        await until(lambda: len(bench.results.results) == 10)
    assert kube.exec.most == most


async def test_a_node_that_hangs_does_not_delay_others(kube: FakeKube) -> None:
    bench = Bench(kube, job(timeout=timedelta(hours=1)))

    def decide(call: ExecCall) -> ExecAnswer:
        return ExecAnswer(hang=call.pod == "plugin-bad")

    kube.exec.decide = decide
    async with working(bench):
        bench.pod("bad")
        for number in range(5):
            bench.pod(f"n{number}")
        await until(lambda: len(bench.results.results) == 5, within=60)
    assert {node for node, _ in bench.results.results} == {f"n{number}" for number in range(5)}


async def test_a_changed_command_runs_at_once(kube: FakeKube) -> None:
    bench = Bench(kube, job())
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.results)
        bench.results.wanted = [job(command="other")]
        bench.worker.enqueue(["n1"])
        await until(lambda: len(bench.results.results) == 2, within=60)
    assert bench.commands("n1") == ["run-c", "other"]


async def test_a_restarted_container_runs_the_check_at_once(kube: FakeKube) -> None:
    bench = Bench(kube, job())
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.results)
        await asyncio.sleep(60)
        bench.pod("n1", number=2, started="2026-06-07T10:31:40Z")
        await until(lambda: len(bench.results.results) == 2, within=5)


async def test_a_container_that_starts_during_a_run_runs_the_check_next(
    kube: FakeKube,
) -> None:
    bench = Bench(kube, job())
    kube.exec.answer = ExecAnswer(delay=10.0)
    async with working(bench):
        bench.pod("n1")
        await asyncio.sleep(5)
        bench.pod("n1", number=2, started="2026-06-07T10:30:48Z")
        await until(lambda: len(bench.results.results) == 2, within=60)
    assert kube.exec.most == 1


async def test_a_deleted_pod_runs_nothing(kube: FakeKube) -> None:
    bench = Bench(kube, job())
    async with working(bench):
        body = bench.pod("n1")
        await until(lambda: bench.results.results)
        bench.gone(body)
        await asyncio.sleep(10 * HOUR)
    assert len(bench.times("n1")) == 1


async def test_a_restarted_process_runs_only_what_is_due(kube: FakeKube) -> None:
    first = Bench(kube, job())
    async with working(first):
        first.pod("n1")
        await until(lambda: first.results.results)
    await asyncio.sleep(600)
    second = Bench(kube, job())
    second.results.checks = first.results.checks
    async with working(second):
        second.pod("n1")
        await asyncio.sleep(HOUR - 700)
        assert len(second.times("n1")) == 1
        await in_hours(lambda: second.results.results, 1)


async def test_a_suspension_cancels_the_run_and_stores_no_result(kube: FakeKube) -> None:
    bench = Bench(kube, job(timeout=timedelta(hours=1)))
    kube.exec.answer = ExecAnswer(delay=60.0)
    async with working(bench):
        bench.pod("n1")
        bench.pod("n2")
        await until(lambda: kube.exec.running == 2)
        bench.results.suspended.add("n1")
        bench.worker.stop_unwanted()
        await until(lambda: kube.exec.running == 1, within=60)
        await until(lambda: bench.results.results)
        assert results(bench) == [("n2", "c", True)]
        # After the suspension the check runs: it has no result yet.
        bench.results.suspended.clear()
        bench.worker.enqueue(["n1"])
        await until(lambda: len(bench.results.results) == 2)


async def test_a_removed_check_is_cancelled_and_the_others_continue(kube: FakeKube) -> None:
    bench = Bench(kube, job("a", timeout=timedelta(hours=1)), job("b"))
    kube.exec.decide = lambda call: ExecAnswer(hang=call.command[-1] == "run-a")
    async with working(bench):
        bench.pod("n1")
        await until(lambda: kube.exec.running == 1)
        bench.results.wanted = [job("b")]
        bench.worker.stop_unwanted()
        await until(lambda: bench.results.results, within=60)
    assert results(bench) == [("n1", "b", True)]


async def test_stopping_the_workers_cancels_their_runs(kube: FakeKube) -> None:
    bench = Bench(kube, job())
    kube.exec.answer = ExecAnswer(hang=True)
    async with working(bench):
        bench.pod("n1")
        await until(lambda: kube.exec.running == 1)
    await until(lambda: kube.exec.running == 0, within=5)
    assert bench.results.results == []


async def test_the_attempts_of_a_node_that_is_gone_are_forgotten(kube: FakeKube) -> None:
    """A new node with the name of an old one starts without back-off."""
    bench = Bench(kube, job())
    kube.exec.answer = ExecAnswer(refusal=OSError("reset"))
    async with working(bench):
        body = bench.pod("n1")
        await until(lambda: len(bench.times("n1")) == 4)
        bench.gone(body)
        bench.worker.prune(set())
        before = len(bench.times("n1"))
        bench.pod("n1")
        # Without the four failures the check runs at once.
        await until(lambda: len(bench.times("n1")) > before, within=0.2)


async def test_a_suspension_during_a_check_prevents_the_next_check(kube: FakeKube) -> None:
    bench = Bench(kube, job("a", timeout=timedelta(hours=1)), job("b"))
    kube.exec.answer = ExecAnswer(hang=True)
    async with working(bench):
        bench.pod("n1")
        await until(lambda: kube.exec.running == 1)
        bench.results.suspended.add("n1")
        bench.worker.stop_unwanted()
        await until(lambda: kube.exec.running == 0, within=60)
        await asyncio.sleep(60)
    assert bench.commands("n1") == ["run-a"]


async def test_a_run_that_was_cancelled_does_not_count_for_its_container(kube: FakeKube) -> None:
    bench = Bench(kube, job(timeout=timedelta(hours=1)))
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.results)
        kube.exec.answer = ExecAnswer(hang=True)
        bench.pod("n1", number=2, started="2026-06-07T10:31:00Z")
        await until(lambda: kube.exec.running == 1)
        bench.results.suspended.add("n1")
        bench.worker.stop_unwanted()
        await until(lambda: kube.exec.running == 0, within=60)
        kube.exec.answer = ExecAnswer()
        bench.results.suspended.clear()
        await asyncio.sleep(60)
        bench.worker.enqueue(["n1"])
        await until(lambda: len(bench.results.results) == 2, within=60)
