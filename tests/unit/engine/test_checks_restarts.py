"""Restarts of the pods of failed checks: stored first, then done, each with an Event."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from gpuid_operator.kube.errors import KubeError
from tests.support import clock
from tests.support.checks import RESULTS, Bench, deletes, job, working
from tests.support.engines import until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube, forbidden
from tests.support.objects import pod_path

HOUR = 3600.0
FAILED = ExecAnswer(exit_code=1)


def bench_of(kube: FakeKube, per_hour: int = 20) -> Bench:
    return Bench(kube, job(restart=True, interval=timedelta(seconds=30)), per_hour=per_hour)


async def test_a_failed_check_deletes_its_pod_and_posts_an_event(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    async with working(bench):
        body = bench.pod("n1")
        await until(lambda: bench.results.events)
    (request,) = kube.asked("DELETE", "pods")
    assert request.path == pod_path("plugin-n1")
    # The precondition protects another pod of the same name.
    assert request.body["preconditions"] == {"uid": body["metadata"]["uid"]}
    assert bench.results.reasons("n1") == ["PodRestarted"]
    check = bench.results.check("n1", "c")
    assert check is not None and check.restarts == 1 and check.last_restart_time == clock.START
    (line,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert line.fields == {"node": "n1", "pod": "plugin-n1", "check": "c"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"restart": False}, FAILED),
        ({"restart": True}, ExecAnswer()),
        ({"restart": True}, ExecAnswer(stdout=b"x" * 300_000)),
    ],
)
async def test_no_restart_unless_it_is_configured_and_may_help(
    kube: FakeKube, fields: dict[str, Any], answer: ExecAnswer
) -> None:
    kube.exec.answer = answer
    bench = Bench(kube, job(**fields))
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.results)
        await asyncio.sleep(60)
    assert deletes(kube) == [] and bench.results.events == []


async def test_a_command_that_hangs_restarts_its_pod(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(hang=True)
    bench = bench_of(kube)
    async with working(bench):
        bench.pod("n1")
        await until(lambda: deletes(kube))
    assert bench.results.reasons("n1") == ["PodRestarted"]


async def test_a_restart_is_stored_before_the_pod_is_deleted(kube: FakeKube) -> None:
    """A crash in between costs a restart and never adds one."""
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    cached = asyncio.Event()
    fault = kube.fail("DELETE", "pods", until=cached)
    async with working(bench):
        bench.pod("n1")
        await fault.met.wait()
        check = bench.results.check("n1", "c")
        assert check is not None and check.restarts == 1
    assert pod_path("plugin-n1") in kube.objects
    # The next process finds the restart and does not touch the node for ten minutes.
    second = bench_of(kube)
    second.results.checks = bench.results.checks
    async with working(second):
        second.pod("n1", number=2, started="2026-06-07T10:31:00Z")
        await asyncio.sleep(300)
        assert len(deletes(kube)) == 1
        assert set(second.results.reasons("n1")) == {"RestartRefused"}
        await until(lambda: len(deletes(kube)) == 2, within=400)


async def test_a_restart_that_is_not_stored_does_not_happen(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    bench.results.stale = True
    async with working(bench):
        bench.pod("n1")
        await until(lambda: len(bench.results.results) == 3, within=200)
    assert deletes(kube) == [] and bench.results.events == []


async def test_a_restart_waits_until_the_results_can_be_refreshed(
    kube: FakeKube,
) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    refreshed = bench.results.refresh

    async def refresh() -> None:
        await refreshed()
        if bench.results.refreshed == 1:
            raise KubeError("no answer")

    bench.results.refresh = refresh  # type: ignore[method-assign]
    async with working(bench):
        bench.pod("n1")
        await until(lambda: deletes(kube))
    assert len(bench.times("n1")) == 2
    assert bench.results.refreshed == 2


async def test_every_refusal_is_an_event_and_a_new_one_is_logged(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    async with working(bench):
        bench.pod("n1", controlled=False)
        await until(lambda: len(bench.results.events) == 3, within=300)
        assert len(_refusals(caplog)) == 1
        kube.exec.answer = ExecAnswer()
        await until(lambda: bench.results.results[-1][1].passed)
        kube.exec.answer = FAILED
        await until(lambda: len(bench.results.events) == 4, within=300)
        assert len(_refusals(caplog)) == 2
        bench.worker.prune({"n2"})
        await until(lambda: len(bench.results.events) == 6, within=300)
    assert len(_refusals(caplog)) == 3
    assert _refusals(caplog)[0].keys() == {"node", "pod", "check", "reason", "why"}


def _refusals(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    lines = [one for one in caplog.records if one.message not in RESULTS]
    return [one.fields for one in lines]  # type: ignore[attr-defined]


async def test_another_pod_of_the_same_name_is_not_deleted(kube: FakeKube) -> None:
    """The controller replaced the pod between the failure and the deletion."""
    kube.exec.answer = FAILED
    bench = bench_of(kube)

    def replaced() -> None:
        body = kube.objects[pod_path("plugin-n1")]
        kube.remove(pod_path("plugin-n1"))
        del body["metadata"]["uid"]
        kube.put(pod_path("plugin-n1"), body)

    bench.results.on_refresh = replaced
    async with working(bench):
        bench.pod("n1")
        await until(lambda: deletes(kube))
    assert pod_path("plugin-n1") in kube.objects
    assert bench.results.events == []


async def test_a_pod_that_is_already_gone_counts_as_restarted(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    bench.results.on_refresh = lambda: kube.remove(pod_path("plugin-n1"))
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.events)
    assert bench.results.reasons("n1") == ["PodRestarted"]


async def test_a_deletion_that_fails_is_an_event_and_logged(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    kube.fail("DELETE", "pods", forbidden())
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.events)
    assert bench.results.reasons("n1") == ["RestartFailed"]
    assert "forbidden" in bench.results.events[0][2]
    errors = [one for one in caplog.records if one.levelname == "ERROR"]
    assert errors[-1].fields["error"] == "forbidden"  # type: ignore[attr-defined]


async def test_a_suspension_before_the_decision_prevents_the_restart(kube: FakeKube) -> None:
    """The suspension arrives after the result and before the decision."""
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    record = bench.results.record

    async def then_suspended(node: str, result: object) -> None:
        await record(node, result)  # type: ignore[arg-type]
        bench.results.suspended.add(node)

    bench.results.record = then_suspended  # type: ignore[method-assign]
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.results.results)
        await asyncio.sleep(60)
    assert deletes(kube) == [] and bench.results.events == []
