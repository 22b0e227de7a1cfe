"""What the engine makes of events, and of what no event told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from gpuid_operator.api.meta import MANAGED_BY_LABEL, MANAGER
from gpuid_operator.engine.engine import CATCH_UP
from gpuid_operator.engine.sources import Source
from gpuid_operator.plan.target import Target
from tests.support.engines import SOURCE, TARGET, Fleet, until
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
async def fleet(kube: FakeKube) -> AsyncIterator[Fleet]:
    kube.exec.answer = ExecAnswer(stdout=machine("n1").encode())
    put_node(kube, "n1")
    fleet = Fleet(kube, resync_period=RESYNC)
    yield fleet
    await fleet.engine.stop(within=1)


def status(fleet: Fleet) -> dict[str, Any]:
    found: dict[str, Any] = fleet.kube.objects.get(inventory_path("n1"), {}).get("status", {})
    return found


def delivered(fleet: Fleet) -> bool:
    return [sink["pending"] for sink in status(fleet).get("sinks", [])] == [0]


async def settled(fleet: Fleet) -> None:
    """A node that was read, and its history delivered."""
    put_pod(fleet.kube, "n1")
    await fleet.engine.start()
    await until(lambda: delivered(fleet))


async def test_a_pod_that_comes_is_read(fleet: Fleet) -> None:
    await fleet.engine.start()
    fleet.pod_event(put_pod(fleet.kube, "n1"))
    await until(lambda: status(fleet).get("gpuCount") == 2)


async def test_a_pod_that_goes_with_its_node_is_a_departure(fleet: Fleet) -> None:
    await settled(fleet)
    body = fleet.kube.objects[pod_path("plugin-n1")]
    fleet.kube.remove(pod_path("plugin-n1"))
    fleet.kube.remove(node_path("n1"))
    fleet.pod_event(body, deleted=True)
    await until(lambda: status(fleet)["state"] == "Departed")
    await until(lambda: len(fleet.records) == 5)
    assert [record["event"] for record in fleet.records][2:] == [
        "GPURemoved",
        "GPURemoved",
        "NodeDeparted",
    ]


async def test_targets_of_the_same_pods_share_their_events(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(stdout=machine("n1").encode())
    put_node(kube, "n1")
    other = Target(namespace=TARGET.namespace, selector=TARGET.selector, container="other")
    fleet = Fleet(kube, targets=(TARGET, other))
    assert list(fleet.engine.sources) == [SOURCE]
    await fleet.engine.start()
    fleet.pod_event(put_pod(kube, "n1"))
    await until(lambda: status(fleet).get("gpuCount") == 2)
    await fleet.engine.stop(within=1)


async def test_events_of_pods_that_no_target_has_change_nothing(fleet: Fleet) -> None:
    await fleet.engine.start()
    body = put_pod(fleet.kube, "n1", namespace="elsewhere")
    fleet.engine.pod_event(Source("elsewhere", "app=x"), body, deleted=False)
    await asyncio.sleep(30)
    assert fleet.kube.exec.calls == []


async def test_a_policy_that_suspends_ends_the_read_under_way(fleet: Fleet) -> None:
    fleet.kube.exec.answer = ExecAnswer(hang=True)
    put_pod(fleet.kube, "n1")
    await fleet.engine.start()
    await until(lambda: fleet.kube.exec.running == 1)
    fleet.engine.policy_event(put_policy(fleet.kube, "p", suspend=True), deleted=False)
    await until(lambda: fleet.kube.exec.running == 0, within=5)
    await until(
        lambda: fleet.kube.objects["/apis/gpuid.github.com/v1alpha1/gpuinventorypolicies/p"].get(
            "status"
        )
    )


async def test_an_inventory_that_suspends_ends_the_read_under_way(fleet: Fleet) -> None:
    put_inventory(fleet.kube, "n1")
    fleet.kube.exec.answer = ExecAnswer(hang=True)
    put_pod(fleet.kube, "n1")
    await fleet.engine.start()
    await until(lambda: fleet.kube.exec.running == 1)
    fleet.kube.change(inventory_path("n1"), lambda body: body["spec"].update(suspend=True))
    await until(lambda: fleet.kube.exec.running == 0, within=5)


async def test_a_policy_that_changes_nothing_is_no_news(fleet: Fleet) -> None:
    body = put_policy(fleet.kube, "p")
    await settled(fleet)
    await asyncio.sleep(5)
    asked = len(fleet.kube.requests)
    fleet.engine.policy_event(body, deleted=False)
    await asyncio.sleep(5)
    assert len(fleet.kube.requests) == asked


async def test_an_inventory_that_a_user_deletes_is_made_again(fleet: Fleet) -> None:
    await settled(fleet)
    uid = fleet.kube.objects[inventory_path("n1")]["metadata"]["uid"]
    fleet.kube.remove(inventory_path("n1"))
    await until(lambda: delivered(fleet))
    assert fleet.kube.objects[inventory_path("n1")]["metadata"]["uid"] != uid
    assert len(fleet.kube.exec.calls) == 2
    assert len(fleet.records) == 4


async def test_checks_have_other_pods_to_watch(kube: FakeKube) -> None:
    fleet = Fleet(kube, checks_allowed=True)
    await fleet.engine.start()
    assert list(fleet.engine.sources) == [SOURCE]
    check = {
        "name": "c",
        "podSelector": {"matchLabels": {"app": "dcgm"}},
        "command": "true",
    }
    fleet.engine.policy_event(put_policy(kube, "p", checks=[check]), deleted=False)
    await fleet.engine.sources_changed.wait()
    assert list(fleet.engine.sources) == [Source(NAMESPACE, "app=dcgm"), SOURCE]
    await fleet.engine.stop(within=1)


async def test_kinds_that_are_not_served_any_more_are_told(fleet: Fleet) -> None:
    await fleet.engine.start()
    await until(lambda: fleet.kube.asked("WATCH", "gpuinventories"))
    assert not fleet.engine.kinds_gone.is_set()
    fleet.kube.served.clear()
    fleet.kube.break_watches()
    await fleet.engine.kinds_gone.wait()


class TestCatchUp:
    """After the beginning of a watch it is looked what went before it."""

    async def test_a_pod_that_went_unseen_is_noticed(self, fleet: Fleet) -> None:
        await settled(fleet)
        fleet.kube.remove(pod_path("plugin-n1"))
        fleet.kube.remove(node_path("n1"))
        fleet.engine.watch_begins()
        await until(lambda: status(fleet)["state"] == "Departed", within=RESYNC.total_seconds())

    async def test_a_look_that_fails_is_told_and_the_next_one_works(
        self, fleet: Fleet, caplog: pytest.LogCaptureFixture
    ) -> None:
        await settled(fleet)
        fleet.kube.remove(pod_path("plugin-n1"))
        fleet.kube.remove(node_path("n1"))
        fleet.kube.fail("GET", "/pods$", server_error())
        fleet.engine.watch_begins()
        await asyncio.sleep(2 * CATCH_UP.total_seconds())
        assert status(fleet)["state"] == "Present"
        assert "WARNING" in [record.levelname for record in caplog.records]
        fleet.engine.watch_begins()
        await until(lambda: status(fleet)["state"] == "Departed", within=60)


class TestResync:
    """The re-sync finds what no event told."""

    async def test_a_pod_of_which_no_event_came_is_read(self, fleet: Fleet) -> None:
        await fleet.engine.start()
        put_pod(fleet.kube, "n1")
        await until(lambda: status(fleet).get("gpuCount") == 2)

    async def test_one_that_fails_is_tried_again_soon(
        self, fleet: Fleet, caplog: pytest.LogCaptureFixture
    ) -> None:
        await fleet.engine.start()
        put_pod(fleet.kube, "n1")
        fleet.kube.fail("GET", "/pods$", server_error(), times=3)
        fleet.kube.fail("GET", "/pods$", ZeroDivisionError("nobody foresaw it"))
        await until(lambda: status(fleet).get("gpuCount") == 2)
        times = [request.time for request in fleet.kube.asked("GET", "/pods$")]
        assert RESYNC.total_seconds() <= times[1] < times[-1] < RESYNC.total_seconds() + 15
        assert len(times) == 6
        levels = [record.levelname for record in caplog.records]
        assert levels.count("WARNING") == 3
        assert levels.count("ERROR") == 1

    async def test_old_inventories_of_departed_nodes_go(self, fleet: Fleet) -> None:
        sink = {"name": "stdout", "type": "stdout", "deliveredSequence": 5, "pending": 0}
        old = {
            "state": "Departed",
            "sequence": 5,
            "lastChangeTime": "2026-01-01T00:00:00Z",
            "sinks": [sink],
        }
        put_inventory(fleet.kube, "gone", status=old, labels={MANAGED_BY_LABEL: MANAGER})
        await fleet.engine.start()
        await until(lambda: inventory_path("gone") not in fleet.kube.objects)
