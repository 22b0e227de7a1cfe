"""When the reader reads a node, and what it writes then."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from gpuid_operator.api.meta import REQUESTED_AT
from tests.support import clock
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube
from tests.support.objects import inventory_path, put_node, put_pod, put_policy
from tests.support.smi_fixtures import machine, serials, uuids, without
from tests.unit.engine.reading import ReadBench

DAY = timedelta(hours=24)


@pytest.fixture
def bench(kube: FakeKube) -> ReadBench:
    bench = ReadBench(kube)
    bench.prints(machine("n1"))
    return bench


def request_read(bench: ReadBench, token: str) -> None:
    """A user asks for a read, and the watch brings it."""

    def annotate(body: dict[str, dict[str, dict[str, str]]]) -> None:
        body["metadata"].setdefault("annotations", {})[REQUESTED_AT] = token

    bench.inventory_changed(bench.kube.change(inventory_path("n1"), annotate))


async def test_a_new_container_is_read_at_once(bench: ReadBench) -> None:
    await bench.node_with_pod()
    wait = await bench.process("n1")
    assert bench.status()["serials"] == sorted(serials(machine("n1")))
    assert bench.status()["source"]["containerID"] == "containerd://plugin-n1-1"
    assert bench.ready()[:2] == ("True", "ReadOK")
    assert bench.reads("Succeeded") == 1
    # Spread by up to a tenth of the interval.
    assert wait is not None
    assert DAY - timedelta(seconds=1) < wait <= DAY * 1.1


async def test_a_node_that_is_not_due_is_not_read(bench: ReadBench) -> None:
    await bench.node_with_pod()
    await bench.process("n1")
    await asyncio.sleep(3600)
    assert await bench.process("n1") is not None
    assert len(bench.kube.exec.calls) == 1


async def test_a_node_is_read_again_when_the_interval_has_passed(bench: ReadBench) -> None:
    await bench.node_with_pod()
    wait = await bench.process("n1")
    assert wait is not None
    await asyncio.sleep(wait.total_seconds() + 1)
    await bench.process("n1")
    assert len(bench.kube.exec.calls) == 2
    assert datetime.fromisoformat(bench.status()["lastReadTime"]) > clock.now() - timedelta(
        seconds=5
    )


async def test_without_an_interval_only_events_ask_for_reads(kube: FakeKube) -> None:
    bench = ReadBench(kube, read_interval=timedelta(0))
    bench.prints(machine("n1"))
    await bench.node_with_pod()
    assert await bench.process("n1") is None
    assert bench.due("n1") is None


async def test_a_container_that_was_replaced_is_read_at_once(bench: ReadBench) -> None:
    await bench.node_with_pod()
    await bench.process("n1")
    bench.see_pod(put_pod(bench.kube, "n1", number=2))
    await bench.process("n1")
    assert len(bench.kube.exec.calls) == 2
    assert bench.status()["source"]["containerID"] == "containerd://plugin-n1-2"


async def test_a_last_read_in_the_future_holds_no_read(bench: ReadBench) -> None:
    await bench.node_with_pod()
    await bench.process("n1")

    def be_read_in_2031(body: dict[str, dict[str, str]]) -> None:
        body["status"]["lastReadTime"] = "2031-01-01T00:00:00Z"

    bench.inventory_changed(bench.kube.change(inventory_path("n1"), be_read_in_2031))
    wait = await bench.process("n1")
    assert len(bench.kube.exec.calls) == 2
    assert bench.status()["lastReadTime"] < "2031"
    assert wait is not None
    assert DAY - timedelta(seconds=1) < wait <= DAY * 1.1


@pytest.mark.parametrize("text", ["Unknown Error", "Insufficient Permissions", "N/A"])
async def test_a_serial_that_cannot_be_read_for_a_moment_stays(bench: ReadBench, text: str) -> None:
    await bench.node_with_pod()
    await bench.process("n1")
    history, labels = (
        bench.history(),
        bench.kube.objects[inventory_path("n1")]["metadata"]["labels"],
    )
    serial = serials(machine("n1"))[0]
    bench.prints(machine("n1").replace(f"<serial>{serial}<", f"<serial>{text}<"))
    request_read(bench, "token-1")
    await bench.process("n1")
    assert bench.history() == history
    assert serial in bench.status()["serials"]
    assert bench.kube.objects[inventory_path("n1")]["metadata"]["labels"] == labels
    status, reason, message = bench.ready()
    assert (status, reason) == ("True", "ReadOK")
    assert message.endswith(f"serial of {uuids(machine('n1'))[0]}")
    bench.prints(machine("n1"))
    request_read(bench, "token-2")
    await bench.process("n1")
    assert bench.history() == history
    assert bench.ready() == ("True", "ReadOK", "")


async def test_a_requested_read_is_made_and_acknowledged(bench: ReadBench) -> None:
    await bench.node_with_pod()
    await bench.process("n1")
    request_read(bench, "token-1")
    await bench.process("n1")
    assert bench.status()["lastHandledRequest"] == "token-1"
    assert len(bench.kube.exec.calls) == 2
    await bench.process("n1")
    assert len(bench.kube.exec.calls) == 2


async def test_a_requested_read_is_acknowledged_even_if_it_fails(bench: ReadBench) -> None:
    await bench.node_with_pod()
    await bench.process("n1")
    request_read(bench, "token-1")
    bench.kube.exec.answer = ExecAnswer(cut=True)
    await bench.process("n1")
    assert bench.ready()[:2] == ("False", "Incomplete")
    assert bench.status()["lastHandledRequest"] == "token-1"


async def test_a_request_ends_a_back_off(bench: ReadBench) -> None:
    bench.kube.exec.answer = ExecAnswer(cut=True)
    await bench.node_with_pod()
    await bench.process("n1")
    request_read(bench, "token-1")
    due = bench.due("n1")
    assert due is not None
    assert due <= clock.now()


async def test_a_request_that_could_not_be_acknowledged_waits_for_the_back_off(
    bench: ReadBench,
) -> None:
    await bench.node_with_pod()
    await bench.process("n1")
    request_read(bench, "token-1")
    bench.kube.exec.answer = ExecAnswer(refusal=OSError("no route"))
    await bench.process("n1")
    assert "lastHandledRequest" not in bench.status()
    due = bench.due("n1")
    assert due is not None
    assert due > clock.now()


async def test_a_suspended_node_is_not_read(kube: FakeKube) -> None:
    bench = ReadBench(kube, suspended=True)
    await bench.node_with_pod()
    assert await bench.process("n1") is None
    assert kube.exec.calls == []


async def test_a_new_node_that_its_policy_suspends_is_not_read(bench: ReadBench) -> None:
    hold = {"suspend": True, "nodeSelector": {"matchLabels": {"pool": "b"}}}
    bench.see_policy(put_policy(bench.kube, "hold", **hold))
    put_node(bench.kube, "n1", labels={"pool": "b"})
    bench.see_pod(put_pod(bench.kube, "n1"))
    # The pod is the first sign of the node: until the Node is fetched, no policy matches it.
    assert bench.due() == clock.now()
    assert await bench.process("n1") is None
    assert len(bench.kube.asked("GET", "/nodes/n1$")) == 1
    assert bench.kube.exec.calls == []
    assert inventory_path("n1") not in bench.kube.objects


async def test_suspending_a_node_stops_its_read(bench: ReadBench) -> None:
    bench.kube.exec.answer = ExecAnswer(hang=True)
    await bench.node_with_pod()
    put_node(bench.kube, "n2", labels={"pool": "b"})
    bench.see_pod(put_pod(bench.kube, "n2"))
    reads = [asyncio.create_task(bench.process(name)) for name in ("n1", "n2")]
    await asyncio.sleep(1)
    assert bench.kube.exec.running == 2
    policy = put_policy(
        bench.kube, "stop", suspend=True, nodeSelector={"matchLabels": {"pool": "b"}}
    )
    bench.see_policy(policy)
    bench.reader.stop_suspended()
    assert await reads[1] is None
    assert bench.kube.exec.running == 1
    assert inventory_path("n2") not in bench.kube.objects
    assert not reads[0].done()
    reads[0].cancel()
    await asyncio.gather(reads[0], return_exceptions=True)
    assert bench.kube.exec.running == 0


class TestMissingGPU:
    """A GPU that a read does not have is removed when a second read agrees, 10 s later."""

    async def test_a_second_read_confirms_it(self, bench: ReadBench) -> None:
        await bench.node_with_pod()
        await bench.process("n1")
        bench.prints(without(machine("n1"), 1))
        request_read(bench, "token-1")
        wait = await bench.process("n1")
        assert bench.status()["gpuCount"] == 2
        assert wait is not None
        assert timedelta(seconds=9) < wait <= timedelta(seconds=10)
        await asyncio.sleep(wait.total_seconds())
        await bench.process("n1")
        assert bench.status()["gpuCount"] == 1
        assert "GPURemoved" in bench.history()

    @pytest.mark.parametrize("days", [-1, 1])
    async def test_the_ten_seconds_do_not_depend_on_the_wall_clock(
        self, bench: ReadBench, monkeypatch: pytest.MonkeyPatch, days: int
    ) -> None:
        await bench.node_with_pod()
        await bench.process("n1")
        bench.prints(without(machine("n1"), 1))
        request_read(bench, "token-1")
        await bench.process("n1")
        monkeypatch.setattr(clock, "START", clock.START + timedelta(days=days))
        request_read(bench, "token-2")
        wait = await bench.process("n1")
        assert bench.status()["gpuCount"] == 2
        assert wait is not None
        assert timedelta(seconds=9) < wait <= timedelta(seconds=10)
        await asyncio.sleep(wait.total_seconds())
        await bench.process("n1")
        assert bench.status()["gpuCount"] == 1

    async def test_a_second_read_that_has_it_keeps_it(self, bench: ReadBench) -> None:
        await bench.node_with_pod()
        await bench.process("n1")
        bench.prints(without(machine("n1"), 1))
        request_read(bench, "token-1")
        wait = await bench.process("n1")
        assert wait is not None
        bench.prints(machine("n1"))
        await asyncio.sleep(wait.total_seconds())
        await bench.process("n1")
        assert bench.status()["gpuCount"] == 2
        assert "GPURemoved" not in bench.history()

    async def test_a_reboot_makes_the_removal_certain(self, bench: ReadBench) -> None:
        await bench.node_with_pod()
        await bench.process("n1")
        await asyncio.sleep(1)
        put_node(bench.kube, "n1", boot="boot-2")
        bench.prints(without(machine("n1"), 1))
        # The other container makes the node's facts, and with them its boot, out of date.
        bench.see_pod(put_pod(bench.kube, "n1", number=2))
        await bench.process("n1")
        assert bench.status()["gpuCount"] == 1

    async def test_forgetting_a_node_cancels_its_second_read(self, bench: ReadBench) -> None:
        await bench.node_with_pod()
        await bench.process("n1")
        bench.prints(without(machine("n1"), 1))
        request_read(bench, "token-1")
        await bench.process("n1")
        bench.reader.forget("n1")
        due = bench.due("n1")
        assert due is not None
        assert due > clock.now() + timedelta(hours=20)


class TestNodeFacts:
    """The Node is fetched with a read unless its facts are recent."""

    async def test_they_are_fetched_once_for_reads_that_follow_each_other(
        self, bench: ReadBench
    ) -> None:
        await bench.node_with_pod()
        await bench.process("n1")
        request_read(bench, "token-1")
        await bench.process("n1")
        assert len(bench.kube.asked("GET", "/nodes/n1$")) == 1

    async def test_they_are_fetched_again_after_a_minute(self, bench: ReadBench) -> None:
        await bench.node_with_pod()
        await bench.process("n1")
        await asyncio.sleep(61)
        request_read(bench, "token-1")
        await bench.process("n1")
        assert len(bench.kube.asked("GET", "/nodes/n1$")) == 2

    async def test_they_are_fetched_again_after_a_change_of_the_pods(
        self, bench: ReadBench
    ) -> None:
        await bench.node_with_pod()
        await bench.process("n1")
        await asyncio.sleep(1)
        bench.see_pod(put_pod(bench.kube, "n1", number=2))
        await bench.process("n1")
        assert len(bench.kube.asked("GET", "/nodes/n1$")) == 2
