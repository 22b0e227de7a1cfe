"""The check runner runs one check of the environment on all nodes that have a pod for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from gpuid_operator.api.meta import MANAGED_BY_LABEL, MANAGER
from gpuid_operator.kube.errors import ApiUnreachable
from tests.support.checks import SOURCE, deletes, event_messages, in_hours, job
from tests.support.engines import until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube, server_error
from tests.support.objects import (
    inventory_path,
    pod_path,
    policy_path,
    put_inventory,
    put_node,
    put_pod,
)
from tests.support.runners import RUNNER, RunnerBench

HOUR = 3600.0


@pytest.fixture
async def bench(kube: FakeKube) -> AsyncIterator[RunnerBench]:
    for node in ("n1", "n2"):
        put_node(kube, node)
    bench = RunnerBench(kube)
    yield bench
    await bench.stop()


async def test_it_creates_missing_inventories_and_applies_only_its_own_check(
    kube: FakeKube, bench: RunnerBench
) -> None:
    put_pod(kube, "n1")
    kube.exec.answer = ExecAnswer(stdout=b"fine")
    await bench.start()
    assert bench.runner.sources == (SOURCE,)
    await until(lambda: bench.result("n1"))
    body = kube.objects[inventory_path("n1")]
    assert body["metadata"]["labels"] == {MANAGED_BY_LABEL: MANAGER}
    (request,) = kube.asked("PATCH", "gpuinventories")
    assert request.params["fieldManager"] == RUNNER and request.params["force"] == "false"
    assert request.body["status"].keys() == {"checks"}
    assert body["status"].keys() == {"checks"}
    (found,) = body["status"]["checks"]
    assert (found["passed"], found["stdout"], found["transitions"]) == (True, "fine", 0)
    # The runner runs the check and no nvidia-smi.
    assert [call.command[-1] for call in kube.exec.calls] == ["run-c"]
    assert 'gpuid_check_passed{check="c",node="n1"} 1.0' in bench.metrics.render("")[1].decode()


async def test_it_runs_at_every_interval_and_counts_transitions(
    kube: FakeKube, bench: RunnerBench
) -> None:
    put_pod(kube, "n1")
    codes = iter([0, 1, 0])
    kube.exec.decide = lambda call: ExecAnswer(exit_code=next(codes, 0))
    await bench.start()
    await in_hours(lambda: len(bench.asked("n1")) == 4, 5)
    found = bench.result("n1")
    assert found is not None and found["transitions"] == 2 and "recorded" not in found


async def test_a_restarted_runner_runs_only_what_is_due(kube: FakeKube, bench: RunnerBench) -> None:
    put_pod(kube, "n1")
    await bench.start()
    await until(lambda: bench.result("n1"))
    await bench.stop()
    second = RunnerBench(kube)
    await second.start()
    await asyncio.sleep(HOUR - 60)
    assert len(bench.asked("n1")) == 1
    await in_hours(lambda: len(bench.asked("n1")) == 2, 1)
    await second.stop()


async def test_a_pod_event_runs_the_check(kube: FakeKube, bench: RunnerBench) -> None:
    await bench.start()
    bench.pod("n1", ready=False)
    await asyncio.sleep(60)
    assert bench.asked("n1") == []
    body = bench.pod("n1")
    await until(lambda: bench.result("n1"), within=5)
    kube.remove(pod_path("plugin-n1"))
    bench.runner.pod_event(bench.job.source, body, deleted=True)
    await asyncio.sleep(3 * HOUR)
    assert len(bench.asked("n1")) == 1


async def test_a_resync_finds_pods_without_events(kube: FakeKube, bench: RunnerBench) -> None:
    await bench.start()
    put_pod(kube, "n1")
    await until(lambda: bench.result("n1"), within=660)
    kube.remove(pod_path("plugin-n1"))
    await asyncio.sleep(660)
    asked = len(bench.asked("n1"))
    await asyncio.sleep(3 * HOUR)
    assert len(bench.asked("n1")) == asked


async def test_a_failed_resync_is_logged_and_retried(
    kube: FakeKube, bench: RunnerBench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.start()
    put_pod(kube, "n1")
    kube.fail("GET", "/pods$", server_error())
    kube.fail("GET", "/pods$", ValueError("unforeseen"))
    await asyncio.sleep(1300)
    assert bench.asked("n1") == []
    await until(lambda: bench.result("n1"), within=660)
    (first, second) = [one for one in caplog.records if one.levelname in ("WARNING", "ERROR")]
    assert first.levelname == "WARNING" and second.exc_info is not None


async def test_start_fails_if_the_cluster_cannot_be_listed(
    kube: FakeKube, bench: RunnerBench
) -> None:
    kube.fail("GET", "/pods$", ApiUnreachable("no answer"))
    with pytest.raises(ApiUnreachable):
        await bench.start()


async def test_the_settings_suspend_all_nodes(kube: FakeKube) -> None:
    put_node(kube, "n1")
    put_pod(kube, "n1")
    bench = RunnerBench(kube, suspended=True)
    await bench.start()
    bench.pod("n1", number=2)
    await asyncio.sleep(3 * HOUR)
    assert kube.exec.calls == [] and inventory_path("n1") not in kube.objects
    await bench.stop()


async def test_a_policy_suspends_its_nodes_and_cancels_their_runs(kube: FakeKube) -> None:
    put_node(kube, "n1", labels={"pool": "a"})
    put_node(kube, "n2")
    put_pod(kube, "n1")
    put_pod(kube, "n2")
    bench = RunnerBench(kube, job(timeout=timedelta(hours=1)))
    kube.exec.answer = ExecAnswer(hang=True)
    await bench.start()
    await until(lambda: kube.exec.running == 2)
    body = bench.policy("p", suspend=True, nodeSelector={"matchLabels": {"pool": "a"}})
    await until(lambda: kube.exec.running == 1, within=60)
    kube.exec.answer = ExecAnswer()
    kube.remove(policy_path("p"))
    bench.runner.policy_event(body, deleted=True)
    await until(lambda: bench.result("n1"), within=60)
    await bench.stop()


async def test_an_inventory_suspends_its_node_until_a_resync_finds_it_resumed(
    kube: FakeKube, bench: RunnerBench
) -> None:
    put_pod(kube, "n1")
    put_pod(kube, "n2")
    put_inventory(kube, "n1", spec={"suspend": True})
    await bench.start()
    await until(lambda: bench.result("n2"))
    await asyncio.sleep(HOUR)
    assert bench.asked("n1") == []
    kube.change(inventory_path("n1"), lambda body: body["spec"].clear())
    await until(lambda: bench.result("n1"), within=660)


async def test_a_resync_cancels_runs_that_an_inventory_suspends(
    kube: FakeKube,
) -> None:
    put_node(kube, "n1")
    put_pod(kube, "n1")
    put_inventory(kube, "n1")
    bench = RunnerBench(kube, job(timeout=timedelta(hours=1)))
    kube.exec.answer = ExecAnswer(hang=True)
    await bench.start()
    await until(lambda: kube.exec.running == 1)
    kube.change(inventory_path("n1"), lambda body: body["spec"].update(suspend=True))
    await until(lambda: kube.exec.running == 0, within=660)
    await bench.stop()


async def test_nodes_wait_while_their_labels_cannot_be_read(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    """No check runs on a node while it is unknown whether a policy suspends it."""
    put_node(kube, "n1")
    put_pod(kube, "n1")
    bench = RunnerBench(kube)
    await bench.start()
    await until(lambda: bench.result("n1"))
    fault = kube.fail("GET", "/nodes$", server_error(), times=3)
    bench.policy("p", suspend=True, nodeSelector={"matchLabels": {"pool": "a"}})
    await fault.met.wait()
    bench.pod("n1", number=2, started="2026-06-07T10:31:00Z")
    await asyncio.sleep(8)
    assert len(bench.asked("n1")) == 1
    await until(lambda: len(bench.asked("n1")) == 2, within=60)
    lines = [one.fields for one in caplog.records if hasattr(one, "fields")]
    assert len([fields for fields in lines if "error" in fields]) == 3
    await bench.stop()


async def test_a_new_node_runs_the_check_once_its_labels_are_known(
    kube: FakeKube, bench: RunnerBench
) -> None:
    bench.policy("p", suspend=True, nodeSelector={"matchLabels": {"pool": "a"}})
    await bench.start()
    put_node(kube, "free")
    put_node(kube, "cached", labels={"pool": "a"})
    bench.pod("held")
    bench.pod("free")
    await until(lambda: bench.result("free"), within=60)
    assert bench.asked("held") == []


async def test_a_failed_check_restarts_its_pod_and_posts_an_event(kube: FakeKube) -> None:
    put_node(kube, "n1")
    put_pod(kube, "n1")
    kube.exec.answer = ExecAnswer(exit_code=1)
    bench = RunnerBench(kube, job(restart=True))
    await bench.start()
    await until(lambda: event_messages(kube, "PodRestarted"))
    found = bench.result("n1")
    assert found is not None and found["restarts"] == 1
    assert found["lastRestartTime"] == "2026-06-07T10:30:45Z"
    assert len(deletes(kube)) == 1
    await bench.stop()


async def test_stop_cancels_runs_and_posts_waiting_events(kube: FakeKube) -> None:
    put_node(kube, "n1")
    put_pod(kube, "n1", controlled=False)
    put_node(kube, "n2")
    kube.exec.answer = ExecAnswer(exit_code=1)
    bench = RunnerBench(kube, job(restart=True))
    fault = kube.fail("POST", "/events$", until=(go := asyncio.Event()))
    await bench.start()
    await fault.met.wait()
    kube.exec.answer = ExecAnswer(hang=True)
    bench.pod("n2")
    await until(lambda: kube.exec.running == 1)
    go.set()
    await bench.stop()
    await until(lambda: kube.exec.running == 0)
    assert len(event_messages(kube, "RestartRefused")) == 1
    assert bench.result("n2") is None


async def test_a_runner_that_did_not_start_can_be_stopped(bench: RunnerBench) -> None:
    await bench.stop()
