"""Restarts of the pods of failed checks: one at a time, within the guards, each with an Event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from gpuid_operator.kube.errors import KubeError
from tests.support import clock
from tests.support.checks import RESULTS, Bench, in_hours, job, working
from tests.support.engines import until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube, forbidden
from tests.support.objects import pod_path

HOUR = 3600.0
FAILED = ExecAnswer(exit_code=1)


def deletes(kube: FakeKube, node: str = "") -> list[float]:
    return [one.time for one in kube.asked("DELETE", f"/pods/plugin-{node}")]


def bench_of(kube: FakeKube, per_hour: int = 20) -> Bench:
    return Bench(kube, job(restart=True, interval=timedelta(seconds=30)), per_hour=per_hour)


class Controller:
    """Puts a new pod in the place of one that was deleted, as a DaemonSet does."""

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


async def test_the_pod_of_a_failed_check_is_deleted_and_an_event_says_so(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    async with working(bench):
        body = bench.pod("n1")
        await until(lambda: bench.book.events)
    (request,) = kube.asked("DELETE", "pods")
    assert request.path == pod_path("plugin-n1")
    # Of another pod of that name nothing is known.
    assert request.body["preconditions"] == {"uid": body["metadata"]["uid"]}
    assert bench.book.reasons("n1") == ["PodRestarted"]
    check = bench.book.check("n1", "c")
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
async def test_no_restart_unless_it_is_asked_for_and_may_help(
    kube: FakeKube, fields: dict[str, bool], answer: ExecAnswer
) -> None:
    kube.exec.answer = answer
    bench = Bench(kube, job(**fields))
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.book.results)
        await asyncio.sleep(60)
    assert deletes(kube) == [] and bench.book.events == []


async def test_a_command_that_hangs_has_its_pod_restarted(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(hang=True)
    bench = bench_of(kube)
    async with working(bench):
        bench.pod("n1")
        await until(lambda: deletes(kube))
    assert bench.book.reasons("n1") == ["PodRestarted"]


async def test_the_restart_is_noted_before_the_pod_is_deleted(kube: FakeKube) -> None:
    """A crash in between costs a restart, never one too many."""
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    held = asyncio.Event()
    fault = kube.fail("DELETE", "pods", until=held)
    async with working(bench):
        bench.pod("n1")
        await fault.met.wait()
        check = bench.book.check("n1", "c")
        assert check is not None and check.restarts == 1
    assert pod_path("plugin-n1") in kube.objects
    # The next process finds the note and leaves the node alone for ten minutes.
    second = bench_of(kube)
    second.book.checks = bench.book.checks
    async with working(second):
        second.pod("n1", number=2, started="2026-06-07T10:31:00Z")
        await asyncio.sleep(300)
        assert len(deletes(kube)) == 1
        assert set(second.book.reasons("n1")) == {"RestartRefused"}
        await until(lambda: len(deletes(kube)) == 2, within=400)


async def test_a_restart_that_cannot_be_noted_is_none(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    bench.book.stale = True
    async with working(bench):
        bench.pod("n1")
        await until(lambda: len(bench.book.results) == 3, within=200)
    assert deletes(kube) == [] and bench.book.events == []


async def test_a_note_that_fails_is_tried_again_and_restarts_nothing_before(
    kube: FakeKube,
) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    refreshed = bench.book.refresh

    async def refresh() -> None:
        await refreshed()
        if bench.book.refreshed == 1:
            raise KubeError("no answer")

    bench.book.refresh = refresh  # type: ignore[method-assign]
    async with working(bench):
        bench.pod("n1")
        await until(lambda: deletes(kube))
    assert len(bench.times("n1")) == 2
    assert bench.book.refreshed == 2


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
        assert 600 <= wait <= 640
    # Three in a row have not helped, and more are not tried.
    assert bench.book.reasons("n1").count("PodRestarted") == 3
    assert bench.book.reasons("n1")[-1] == "RestartsExhausted"


async def test_a_pass_begins_the_count_of_restarts_in_a_row_again(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    bench.book.fail("n1", restarts=3)
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.book.events)
        assert bench.book.reasons("n1") == ["RestartsExhausted"]
        kube.exec.answer = ExecAnswer()
        await until(lambda: bench.book.results[-1][1].passed)
        kube.exec.answer = FAILED
        await until(lambda: deletes(kube), within=120)


async def test_one_pod_in_the_cluster_is_restarted_at_a_time(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    for number in range(30):
        bench.book.fail(f"h{number}", passed=True)
    async with working(bench):
        controller = asyncio.create_task(Controller(bench, "n1", "n2", after=100.0).run())
        await in_hours(lambda: len(deletes(kube)) == 2, 1)
        controller.cancel()
    first, second = deletes(kube)
    # Not before a run told what came of the first, and soon after it.
    assert 100 <= second - first <= 200
    refused = [message for _, reason, message in bench.book.events if reason == "RestartRefused"]
    assert any("one at a time" in message for message in refused)


async def test_what_another_instance_restarts_counts(kube: FakeKube) -> None:
    """It is found by the look at the cluster before each restart."""
    kube.exec.answer = FAILED
    bench = bench_of(kube)

    def restarted() -> None:
        since = clock.START - timedelta(minutes=1)
        bench.book.fail("n9", "other", last_restart_time=clock.now(), last_run_time=since)

    bench.book.on_refresh = restarted
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.book.events)
    assert bench.book.reasons("n1") == ["RestartRefused"]
    assert deletes(kube) == []


async def test_restarts_per_hour_bound_all_nodes_and_room_is_used_when_there_is_some(
    kube: FakeKube,
) -> None:
    kube.exec.answer = FAILED
    bench = Bench(kube, job(restart=True, interval=timedelta(hours=24)), per_hour=2)
    for number in range(50):
        bench.book.fail(f"h{number}", passed=True)
    nodes = ["n1", "n2", "n3"]
    async with working(bench):
        controller = asyncio.create_task(Controller(bench, *nodes).run())
        await in_hours(lambda: len(deletes(kube)) == 3, 2)
        controller.cancel()
    first, _, third = deletes(kube)
    assert HOUR <= third - first <= HOUR + 60
    refused = [message for _, reason, message in bench.book.events if reason == "RestartRefused"]
    assert any("RESTARTS_PER_HOUR allows 2" in message for message in refused)


async def test_no_restarts_at_all_where_none_are_allowed(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube, per_hour=0)
    async with working(bench):
        bench.pod("n1")
        await asyncio.sleep(HOUR)
    assert deletes(kube) == []
    assert set(bench.book.reasons("n1")) == {"RestartRefused"}


async def test_a_failure_of_many_nodes_halts_restarts(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    for number in range(3):
        bench.book.fail(f"bad{number}")
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.book.events)
        assert bench.book.reasons("n1") == ["RestartsHalted"]
        # Nodes that are gone do not count, and neither do those that pass.
        bench.book.absent = {"bad0", "bad1", "bad2"}
        await until(lambda: deletes(kube), within=120)


async def test_a_pod_without_a_controller_is_never_deleted(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    async with working(bench):
        bench.pod("n1", controlled=False)
        await until(lambda: len(bench.book.events) == 3, within=300)
    assert deletes(kube) == []
    assert set(bench.book.reasons("n1")) == {"RestartRefused"}


async def test_every_refusal_is_an_event_but_only_a_new_one_is_logged(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    async with working(bench):
        bench.pod("n1", controlled=False)
        await until(lambda: len(bench.book.events) == 3, within=300)
        assert len(_refusals(caplog)) == 1
        kube.exec.answer = ExecAnswer()
        await until(lambda: bench.book.results[-1][1].passed)
        kube.exec.answer = FAILED
        await until(lambda: len(bench.book.events) == 4, within=300)
        assert len(_refusals(caplog)) == 2
        bench.runs.prune({"n2"})
        await until(lambda: len(bench.book.events) == 6, within=300)
    assert len(_refusals(caplog)) == 3
    assert _refusals(caplog)[0].keys() == {"node", "pod", "check", "reason", "why"}


def _refusals(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    lines = [one for one in caplog.records if one.message not in RESULTS]
    return [one.fields for one in lines]  # type: ignore[attr-defined]


async def test_another_pod_under_the_name_is_left_alone(kube: FakeKube) -> None:
    """It was replaced between the failure and the deletion."""
    kube.exec.answer = FAILED
    bench = bench_of(kube)

    def replaced() -> None:
        body = kube.objects[pod_path("plugin-n1")]
        kube.remove(pod_path("plugin-n1"))
        del body["metadata"]["uid"]
        kube.put(pod_path("plugin-n1"), body)

    bench.book.on_refresh = replaced
    async with working(bench):
        bench.pod("n1")
        await until(lambda: deletes(kube))
    assert pod_path("plugin-n1") in kube.objects
    assert bench.book.events == []


async def test_a_pod_that_is_gone_already_counts_as_restarted(kube: FakeKube) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    bench.book.on_refresh = lambda: kube.remove(pod_path("plugin-n1"))
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.book.events)
    assert bench.book.reasons("n1") == ["PodRestarted"]


async def test_a_pod_that_cannot_be_deleted_is_said_so(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    kube.fail("DELETE", "pods", forbidden())
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.book.events)
    assert bench.book.reasons("n1") == ["RestartFailed"]
    assert "forbidden" in bench.book.events[0][2]
    errors = [one for one in caplog.records if one.levelname == "ERROR"]
    assert errors[-1].fields["error"] == "forbidden"  # type: ignore[attr-defined]


async def test_no_restart_of_a_check_that_is_not_wanted_any_more(kube: FakeKube) -> None:
    """Its node was suspended between its result and the decision."""
    kube.exec.answer = FAILED
    bench = bench_of(kube)
    note = bench.book.note

    async def then_suspended(node: str, result: object) -> None:
        await note(node, result)  # type: ignore[arg-type]
        bench.book.suspended.add(node)

    bench.book.note = then_suspended  # type: ignore[method-assign]
    async with working(bench):
        bench.pod("n1")
        await until(lambda: bench.book.results)
        await asyncio.sleep(60)
    assert deletes(kube) == [] and bench.book.events == []


async def test_the_hour_of_restarts_knows_those_that_a_status_does_not_show(
    kube: FakeKube,
) -> None:
    """The status of a check has only its last restart."""
    kube.exec.answer = FAILED
    bench = bench_of(kube, per_hour=3)
    note: Callable[..., object] = bench.book.note_restart

    async def passing(node: str, name: str, *, now: datetime) -> bool:
        noted = await note(node, name, now=now)  # type: ignore[misc]
        check = bench.book.checks[node, name]
        bench.book.checks[node, name] = check.model_copy(update={"restarts": 0})
        return bool(noted)

    bench.book.note_restart = passing  # type: ignore[method-assign]
    async with working(bench):
        controller = asyncio.create_task(Controller(bench, "n1").run())
        await in_hours(lambda: len(deletes(kube)) == 4, 2)
        controller.cancel()
    times = deletes(kube)
    assert times[3] - times[0] >= HOUR
