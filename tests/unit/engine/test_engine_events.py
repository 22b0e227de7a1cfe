"""The engine reacts to events, and to changes that no event reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from gpuid_operator.api.meta import MANAGED_BY_LABEL, MANAGER
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS, Timings
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.plan.target import Target
from tests.support.engines import SOURCE, TARGET, EngineHarness, until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube, server_error
from tests.support.objects import (
    NAMESPACE,
    inventory_path,
    node_path,
    pod_path,
    put_inventory,
    put_node,
    put_pod,
    put_policy,
)
from tests.support.smi_fixtures import machine

RESYNC = timedelta(minutes=10)


@pytest.fixture
async def harness(kube: FakeKube) -> AsyncIterator[EngineHarness]:
    kube.exec.answer = ExecAnswer(stdout=machine("n1").encode())
    put_node(kube, "n1")
    harness = EngineHarness(kube, timings=Timings(resync=RESYNC))
    yield harness
    await harness.engine.stop(within=1)


def status(harness: EngineHarness) -> dict[str, Any]:
    found: dict[str, Any] = harness.kube.objects.get(inventory_path("n1"), {}).get("status", {})
    return found


def delivered(harness: EngineHarness) -> bool:
    return [sink["pending"] for sink in status(harness).get("sinks", [])] == [0]


async def settled(harness: EngineHarness) -> None:
    """A node that was read, and its history delivered."""
    put_pod(harness.kube, "n1")
    await harness.engine.start()
    await until(lambda: delivered(harness))


async def test_a_pod_that_comes_is_read(harness: EngineHarness) -> None:
    await harness.engine.start()
    harness.pod_event(put_pod(harness.kube, "n1"))
    await until(lambda: status(harness).get("gpuCount") == 2)


async def test_a_pod_that_goes_with_its_node_is_a_departure(harness: EngineHarness) -> None:
    await settled(harness)
    body = harness.kube.objects[pod_path("plugin-n1")]
    harness.kube.remove(pod_path("plugin-n1"))
    harness.kube.remove(node_path("n1"))
    harness.pod_event(body, deleted=True)
    await until(lambda: status(harness)["state"] == "Departed")
    await until(lambda: len(harness.records) == 5)
    assert [record["event"] for record in harness.records][2:] == [
        "GPURemoved",
        "GPURemoved",
        "NodeDeparted",
    ]


async def test_targets_of_the_same_pods_share_their_events(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(stdout=machine("n1").encode())
    put_node(kube, "n1")
    other = Target(namespace=TARGET.namespace, selector=TARGET.selector, container="other")
    harness = EngineHarness(kube, targets=(TARGET, other))
    assert list(harness.engine.sources) == [SOURCE]
    await harness.engine.start()
    harness.pod_event(put_pod(kube, "n1"))
    await until(lambda: status(harness).get("gpuCount") == 2)
    await harness.engine.stop(within=1)


async def test_events_of_pods_that_no_target_has_change_nothing(harness: EngineHarness) -> None:
    await harness.engine.start()
    body = put_pod(harness.kube, "n1", namespace="elsewhere")
    harness.engine.pod_event(PodSelector("elsewhere", "app=x"), body, deleted=False)
    await asyncio.sleep(30)
    assert harness.kube.exec.calls == []


async def test_a_policy_that_suspends_ends_the_read_under_way(harness: EngineHarness) -> None:
    harness.kube.exec.answer = ExecAnswer(hang=True)
    put_pod(harness.kube, "n1")
    await harness.engine.start()
    await until(lambda: harness.kube.exec.running == 1)
    harness.engine.policy_event(put_policy(harness.kube, "p", suspend=True), deleted=False)
    await until(lambda: harness.kube.exec.running == 0, within=5)
    await until(
        lambda: harness.kube.objects["/apis/gpuid.github.com/v1alpha1/gpuinventorypolicies/p"].get(
            "status"
        )
    )


async def test_an_inventory_that_suspends_ends_the_read_under_way(harness: EngineHarness) -> None:
    put_inventory(harness.kube, "n1")
    harness.kube.exec.answer = ExecAnswer(hang=True)
    put_pod(harness.kube, "n1")
    await harness.engine.start()
    await until(lambda: harness.kube.exec.running == 1)
    harness.kube.change(inventory_path("n1"), lambda body: body["spec"].update(suspend=True))
    await until(lambda: harness.kube.exec.running == 0, within=5)


async def test_an_unchanged_policy_causes_no_request(harness: EngineHarness) -> None:
    body = put_policy(harness.kube, "p")
    await settled(harness)
    await asyncio.sleep(5)
    asked = len(harness.kube.requests)
    harness.engine.policy_event(body, deleted=False)
    await asyncio.sleep(5)
    assert len(harness.kube.requests) == asked


async def test_an_inventory_that_a_user_deletes_is_made_again(harness: EngineHarness) -> None:
    await settled(harness)
    uid = harness.kube.objects[inventory_path("n1")]["metadata"]["uid"]
    harness.kube.remove(inventory_path("n1"))
    await until(lambda: delivered(harness))
    assert harness.kube.objects[inventory_path("n1")]["metadata"]["uid"] != uid
    assert len(harness.kube.exec.calls) == 2
    assert len(harness.records) == 4


async def test_checks_have_other_pods_to_watch(kube: FakeKube) -> None:
    harness = EngineHarness(kube, checks_allowed=True)
    await harness.engine.start()
    assert list(harness.engine.sources) == [SOURCE]
    check = {
        "name": "c",
        "podSelector": {"matchLabels": {"app": "dcgm"}},
        "command": "true",
    }
    harness.engine.policy_event(put_policy(kube, "p", checks=[check]), deleted=False)
    await harness.engine.sources_changed.wait()
    one_watch = PodSelector(NAMESPACE, "app in (dcgm,nvidia-device-plugin-daemonset)")
    assert list(harness.engine.sources) == [one_watch]
    await harness.engine.stop(within=1)


async def test_the_engine_reports_when_its_kinds_are_gone(harness: EngineHarness) -> None:
    await harness.engine.start()
    await until(lambda: harness.kube.asked("WATCH", "gpuinventories"))
    assert not harness.engine.kinds_gone.is_set()
    harness.kube.served.clear()
    harness.kube.break_watches()
    await harness.engine.kinds_gone.wait()


class TestCatchUp:
    """The engine lists again after the start of a watch, to find earlier deletions."""

    async def test_a_pod_that_was_deleted_before_the_watch_is_noticed(
        self, harness: EngineHarness
    ) -> None:
        await settled(harness)
        harness.kube.remove(pod_path("plugin-n1"))
        harness.kube.remove(node_path("n1"))
        harness.engine.watch_begins()
        await until(lambda: status(harness)["state"] == "Departed", within=RESYNC.total_seconds())

    async def test_a_failed_list_is_logged_and_the_next_one_works(
        self, harness: EngineHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        await settled(harness)
        harness.kube.remove(pod_path("plugin-n1"))
        harness.kube.remove(node_path("n1"))
        harness.kube.fail("GET", "/pods$", server_error())
        harness.engine.watch_begins()
        await asyncio.sleep(2 * DEFAULT_TIMINGS.catch_up.total_seconds())
        assert status(harness)["state"] == "Present"
        assert "WARNING" in [record.levelname for record in caplog.records]
        harness.engine.watch_begins()
        await until(lambda: status(harness)["state"] == "Departed", within=60)


class TestResync:
    """The resync finds changes that no event reported."""

    async def test_a_pod_without_an_event_is_read(self, harness: EngineHarness) -> None:
        await harness.engine.start()
        put_pod(harness.kube, "n1")
        await until(lambda: status(harness).get("gpuCount") == 2)

    async def test_one_that_fails_is_tried_again_soon(
        self, harness: EngineHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        await harness.engine.start()
        put_pod(harness.kube, "n1")
        harness.kube.fail("GET", "/pods$", server_error(), times=3)
        harness.kube.fail("GET", "/pods$", ZeroDivisionError("nobody foresaw it"))
        await until(lambda: status(harness).get("gpuCount") == 2)
        times = [request.time for request in harness.kube.asked("GET", "/pods$")]
        assert times[1] == pytest.approx(RESYNC.total_seconds())
        assert times[1] < times[-1] < RESYNC.total_seconds() + 15
        assert len(times) == 6
        levels = [record.levelname for record in caplog.records]
        assert levels.count("WARNING") == 3
        assert levels.count("ERROR") == 1

    async def test_old_inventories_of_departed_nodes_go(self, harness: EngineHarness) -> None:
        sink = {"name": "stdout", "type": "stdout", "deliveredSequence": 5, "pending": 0}
        old = {
            "state": "Departed",
            "sequence": 5,
            "lastChangeTime": "2026-01-01T00:00:00Z",
            "sinks": [sink],
        }
        put_inventory(harness.kube, "gone", status=old, labels={MANAGED_BY_LABEL: MANAGER})
        await harness.engine.start()
        await until(lambda: inventory_path("gone") not in harness.kube.objects)


async def test_the_resync_finds_check_pods_without_an_event(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(stdout=machine("n1").encode())
    check = {"name": "c", "podSelector": {"matchLabels": {"app": "dcgm"}}, "command": "true"}
    put_policy(kube, "p", checks=[check])
    put_node(kube, "n1")
    put_pod(kube, "n1")
    harness = EngineHarness(kube, checks_allowed=True)
    await harness.engine.start()
    await until(lambda: kube.exec.calls)
    put_pod(kube, "n1", name="dcgm", labels={"app": "dcgm"}, container="dcgm")
    await until(lambda: "dcgm" in [call.pod for call in kube.exec.calls])
    await harness.engine.stop(within=1)


async def test_a_check_runs_once_its_node_is_known(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(stdout=machine("n1").encode())
    check = {"name": "c", "podSelector": {"matchLabels": {"app": "dcgm"}}, "command": "true"}
    put_policy(kube, "p", checks=[check])
    harness = EngineHarness(kube, checks_allowed=True)
    await harness.engine.start()
    put_node(kube, "n1", gpus=None)
    selector = PodSelector(NAMESPACE, "app=dcgm")
    dcgm = put_pod(kube, "n1", name="dcgm", labels={"app": "dcgm"}, container="dcgm")
    harness.engine.pod_event(selector, dcgm, deleted=False)
    await asyncio.sleep(30)
    assert kube.exec.calls == []
    harness.pod_event(put_pod(kube, "n1"))
    await until(lambda: [call.pod for call in kube.exec.calls] == ["plugin-n1", "dcgm"], within=60)
    await harness.engine.stop(within=1)


async def test_look_up_labels_that_a_user_removed_come_back(harness: EngineHarness) -> None:
    await settled(harness)
    path = inventory_path("n1")
    before = harness.kube.objects[path]["metadata"]["labels"]
    mine = {"team": "a"}
    harness.kube.change(path, lambda body: body["metadata"].update(labels=mine))
    await until(lambda: len(harness.kube.objects[path]["metadata"]["labels"]) > 1)
    # Without `managed-by` the object is the user's: the operator does not delete it.
    wanted = {name: value for name, value in before.items() if name != MANAGED_BY_LABEL}
    assert harness.kube.objects[path]["metadata"]["labels"] == wanted | mine
