"""The engine as a whole on the fake API server: start, stop, restart and change of leader."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpuid_operator.kube.errors import ServerError
from tests.support.engines import EngineHarness, until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube, Request, server_error
from tests.support.objects import inventory_path, put_inventory, put_node, put_pod
from tests.support.smi_fixtures import machine, serials


@pytest.fixture
def xml(kube: FakeKube) -> str:
    xml = machine("n1")
    kube.exec.answer = ExecAnswer(stdout=xml.encode())
    return xml


@pytest.fixture
def node(kube: FakeKube, xml: str) -> None:
    put_node(kube, "n1")
    put_pod(kube, "n1")


def status(kube: FakeKube) -> dict[str, Any]:
    found: dict[str, Any] = kube.objects.get(inventory_path("n1"), {}).get("status", {})
    return found


def history(kube: FakeKube) -> list[str]:
    return [entry["type"] for entry in status(kube)["history"]]


async def settled(harness: EngineHarness) -> None:
    """The node was read, and its history delivered."""
    await harness.engine.start()
    await until(lambda: [sink["pending"] for sink in status(harness.kube).get("sinks", [])] == [0])


def writes(kube: FakeKube) -> list[Request]:
    return [request for request in kube.requests if request.method not in ("GET", "WATCH")]


async def test_a_node_is_read_and_its_history_delivered(kube: FakeKube, xml: str) -> None:
    put_node(kube, "n1")
    put_pod(kube, "n1")
    harness = EngineHarness(kube)
    await harness.engine.start()
    await until(lambda: len(harness.records) == 2)
    assert sorted(record["gpu"] for record in harness.records) == sorted(serials(xml))
    await until(lambda: kube.objects[inventory_path("n1")]["status"]["sinks"][0]["pending"] == 0)
    assert kube.objects[inventory_path("n1")]["status"]["gpuCount"] == 2
    await harness.engine.stop(within=10)


@pytest.mark.usefixtures("node")
async def test_everything_is_listed_before_anything_is_read_or_written(kube: FakeKube) -> None:
    hold = kube.fail("GET", "/gpuinventories$", until=asyncio.Event())
    harness = EngineHarness(kube)
    start = asyncio.create_task(harness.engine.start())
    await hold.met.wait()
    await asyncio.sleep(60)
    assert kube.exec.calls == []
    assert writes(kube) == []
    assert hold.until is not None
    hold.until.set()
    await start
    await until(lambda: kube.exec.calls)
    await harness.engine.stop(within=1)


@pytest.mark.usefixtures("node")
async def test_the_start_fails_if_a_list_fails(kube: FakeKube) -> None:
    kube.fail("GET", "/nodes$", server_error())
    harness = EngineHarness(kube)
    with pytest.raises(ServerError):
        await harness.engine.start()
    await asyncio.sleep(60)
    assert kube.exec.calls == []
    await harness.engine.stop(within=1)


async def test_look_up_labels_are_repaired_at_the_start(kube: FakeKube) -> None:
    known = {"state": "Departed", "gpus": [{"index": 0, "serial": "1650000000017"}]}
    put_inventory(kube, "n1", status=known)
    harness = EngineHarness(kube)
    await harness.engine.start()
    labels = kube.objects[inventory_path("n1")]["metadata"]["labels"]
    assert "serial.gpuid.github.com/1650000000017" in labels
    await harness.engine.stop(within=1)


class TestStop:
    """The engine stops in time, whatever hangs."""

    @pytest.mark.usefixtures("node")
    async def test_a_read_is_ended(self, kube: FakeKube) -> None:
        kube.exec.answer = ExecAnswer(hang=True)
        harness = EngineHarness(kube)
        await harness.engine.start()
        await until(lambda: kube.exec.running == 1)
        await harness.engine.stop(within=10)
        assert kube.exec.running == 0
        assert inventory_path("n1") not in kube.objects

    @pytest.mark.usefixtures("node")
    async def test_a_write_under_way_is_finished(self, kube: FakeKube) -> None:
        hold = kube.fail("PATCH", "/n1/status$", until=asyncio.Event())
        harness = EngineHarness(kube)
        await harness.engine.start()
        await hold.met.wait()
        stop = asyncio.create_task(harness.engine.stop(within=10))
        await asyncio.sleep(1)
        assert hold.until is not None
        hold.until.set()
        await stop
        assert status(kube)["gpuCount"] == 2

    @pytest.mark.usefixtures("node")
    async def test_a_write_that_hangs_is_abandoned(
        self, kube: FakeKube, caplog: pytest.LogCaptureFixture
    ) -> None:
        hold = kube.fail("PATCH", "/n1/status$", until=asyncio.Event())
        harness = EngineHarness(kube)
        await harness.engine.start()
        await hold.met.wait()
        loop = asyncio.get_running_loop()
        before = loop.time()
        await harness.engine.stop(within=10)
        assert loop.time() - before <= 10
        assert status(kube) == {}
        assert [record.levelname for record in caplog.records] == ["WARNING"]

    async def test_nothing_goes_on_afterwards(self, kube: FakeKube, node: None) -> None:
        harness = EngineHarness(kube)
        await settled(harness)
        await harness.engine.stop(within=10)
        asked = len(kube.requests)
        await asyncio.sleep(7200)
        assert len(kube.requests) == asked
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert others == set()


@pytest.mark.usefixtures("node")
async def test_a_restart_with_nothing_changed_reads_writes_and_sends_nothing(
    kube: FakeKube,
) -> None:
    put_node(kube, "n2", gpus=None)
    first = EngineHarness(kube)
    await settled(first)
    await first.engine.stop(within=10)
    calls, wrote = len(kube.exec.calls), len(writes(kube))
    second = EngineHarness(kube)
    await second.engine.start()
    await asyncio.sleep(3 * 3600)
    assert len(kube.exec.calls) == calls
    assert writes(kube)[wrote:] == []
    assert second.records == []
    await second.engine.stop(within=10)


@pytest.mark.usefixtures("node")
async def test_what_was_not_delivered_is_delivered_after_a_restart(kube: FakeKube) -> None:
    first = EngineHarness(kube)
    kube.fail("PATCH", "/n1/status$")  # held for no time: the read itself
    hold = kube.fail("PATCH", "/n1/status$", until=asyncio.Event())
    await first.engine.start()
    await hold.met.wait()
    await first.engine.stop(within=1)
    sent = list(first.records)
    assert status(kube)["sinks"][0]["pending"] > 0
    second = EngineHarness(kube)
    await settled(second)
    assert {record["id"] for record in sent} == {record["id"] for record in second.records}
    await second.engine.stop(within=10)


class TestChangeOfLeader:
    """Another instance took the lease while this one was paused and did not notice."""

    @pytest.mark.usefixtures("node")
    async def test_a_late_write_of_the_first_leader_undoes_nothing(self, kube: FakeKube) -> None:
        first, second = EngineHarness(kube), EngineHarness(kube)
        hold = kube.fail("PATCH", "/n1/status$", until=asyncio.Event())
        await first.engine.start()
        await hold.met.wait()
        await settled(second)
        wanted = status(kube)
        assert hold.until is not None
        hold.until.set()
        await asyncio.sleep(10)
        assert status(kube) == wanted
        for harness in (first, second):
            await harness.engine.stop(within=10)

    @pytest.mark.usefixtures("node")
    async def test_the_second_leader_continues_where_the_first_stopped(
        self, kube: FakeKube
    ) -> None:
        first, second = EngineHarness(kube), EngineHarness(kube)
        await settled(first)
        before = history(kube)
        await second.engine.start()
        second.pod_event(put_pod(kube, "n1", number=2))
        await until(lambda: status(kube)["source"]["containerID"] == "containerd://plugin-n1-2")
        assert history(kube) == [*before, "Sighted"]
        for harness in (first, second):
            await harness.engine.stop(within=10)


@pytest.mark.usefixtures("node")
async def test_a_failed_loop_restarts(kube: FakeKube, caplog: pytest.LogCaptureFixture) -> None:
    fault = kube.fail("WATCH", "gpuinventories", ZeroDivisionError("nobody foresaw it"))
    harness = EngineHarness(kube)
    await harness.engine.start()
    await fault.met.wait()
    await until(lambda: len(kube.asked("WATCH", "gpuinventories")) == 2)
    kube.change(inventory_path("n1"), lambda body: body["spec"].update(suspend=True))
    await until(lambda: status(kube)["observedGeneration"] == 2)
    faults = [record for record in caplog.records if record.exc_info]
    assert len(faults) == 1
    await harness.engine.stop(within=1)
