"""A node without a running target pod: it never had one, waits for the next, or is gone."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from gpuid_operator.api.meta import REQUESTED_AT
from gpuid_operator.api.values import format_time
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS
from gpuid_operator.kube.errors import NotFound, ServerError
from gpuid_operator.plan.target import Target
from tests.support import clock
from tests.support.engines import TARGET
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube, rejected, server_error
from tests.support.objects import (
    inventory_path,
    node_path,
    pod_path,
    put_inventory,
    put_node,
    put_pod,
)
from tests.support.smi_fixtures import machine
from tests.unit.engine.reading import ReadBench


@pytest.fixture
def bench(kube: FakeKube) -> ReadBench:
    bench = ReadBench(kube)
    bench.prints(machine("n1"))
    return bench


async def read(bench: ReadBench) -> None:
    """A node that was read a while ago."""
    await bench.node_with_pod()
    await bench.process("n1")
    await asyncio.sleep(600)


def lose_pod(bench: ReadBench) -> None:
    body = bench.kube.objects[pod_path("plugin-n1")]
    bench.kube.remove(pod_path("plugin-n1"))
    bench.see_pod(body, deleted=True)


async def test_a_node_that_lost_its_pod_has_a_minute(bench: ReadBench) -> None:
    await read(bench)
    lose_pod(bench)
    assert await bench.process("n1") == DEFAULT_TIMINGS.pod_grace
    assert bench.ready()[:2] == ("True", "ReadOK")
    await asyncio.sleep(DEFAULT_TIMINGS.pod_grace.total_seconds())
    assert await bench.process("n1") is None
    status, reason, message = bench.ready()
    assert (status, reason) == ("False", "NoTargetPod")
    assert "namespace gpu-operator, selector app=nvidia-device-plugin-daemonset" in message


async def test_a_node_whose_fetch_outlasts_the_minute_is_fetched_again(bench: ReadBench) -> None:
    await read(bench)
    lose_pod(bench)
    bench.kube.fail("GET", "/nodes/n1$", None, delay=90, after=True)
    assert await bench.process("n1") == timedelta(0)
    assert await bench.process("n1") is None
    assert bench.ready()[:2] == ("False", "NoTargetPod")


async def test_a_target_that_is_due_after_the_fetch_is_read_and_not_reported(
    kube: FakeKube,
) -> None:
    """The target in use is gone for a minute when the fetch of the Node ends."""
    bench = ReadBench(kube, targets=(TARGET, Target("gpu-operator", "app=dcgm", "dcgm")))
    bench.prints(machine("n1"))
    await read(bench)
    bench.see_pod(put_pod(kube, "n1", name="dcgm", container="dcgm"), target=1)
    lose_pod(bench)
    kube.fail("GET", "/nodes/n1$", None, delay=90, after=True)
    assert await bench.process("n1") == timedelta(0)
    await bench.process("n1")
    assert bench.status()["source"]["container"] == "dcgm"


async def test_a_pod_that_comes_within_the_minute_is_read(bench: ReadBench) -> None:
    await read(bench)
    lose_pod(bench)
    await bench.process("n1")
    await asyncio.sleep(30)
    bench.see_pod(put_pod(bench.kube, "n1", name="next"))
    await bench.process("n1")
    assert bench.status()["source"]["pod"] == "next"
    assert bench.ready()[:2] == ("True", "ReadOK")


async def test_a_gpu_node_that_never_had_a_pod_is_reported_at_once(bench: ReadBench) -> None:
    await asyncio.sleep(1)
    put_node(bench.kube, "n1")
    assert await bench.process("n1") is None
    assert bench.ready()[:2] == ("False", "NoTargetPod")


async def test_a_pod_whose_container_does_not_run_is_named(bench: ReadBench) -> None:
    await bench.node_with_pod(running=False)
    await asyncio.sleep(DEFAULT_TIMINGS.pod_grace.total_seconds())
    await bench.process("n1")
    _, reason, message = bench.ready()
    assert reason == "NoTargetPod"
    assert "gpu-operator/plugin-n1" in message


async def test_a_node_without_gpus_and_pods_gets_no_inventory(bench: ReadBench) -> None:
    await asyncio.sleep(1)
    put_node(bench.kube, "n1", gpus=None)
    assert await bench.process("n1") is None
    assert inventory_path("n1") not in bench.kube.objects


async def test_a_suspended_node_without_a_pod_is_left_alone(kube: FakeKube) -> None:
    bench = ReadBench(kube, suspended=True)
    await asyncio.sleep(1)
    put_node(kube, "n1")
    assert await bench.process("n1") is None
    assert inventory_path("n1") not in kube.objects


async def test_a_node_that_is_gone_has_departed_with_its_gpus(bench: ReadBench) -> None:
    await read(bench)
    bench.kube.remove(node_path("n1"))
    lose_pod(bench)
    assert await bench.process("n1") is None
    assert bench.status()["state"] == "Departed"
    assert bench.history()[-3:] == ["GPURemoved", "GPURemoved", "NodeDeparted"]
    assert bench.ready()[:2] == ("False", "NodeNotFound")


async def test_a_node_deleted_after_its_pod_departs_at_the_end_of_the_grace_period(
    bench: ReadBench,
) -> None:
    await read(bench)
    lose_pod(bench)
    wait = await bench.process("n1")
    assert wait is not None
    bench.kube.remove(node_path("n1"))
    await asyncio.sleep(wait.total_seconds())
    await bench.process("n1")
    assert bench.status()["state"] == "Departed"


async def test_a_container_that_does_not_become_ready_is_reported(bench: ReadBench) -> None:
    await bench.node_with_pod(ready=False)
    wait = await bench.process("n1")
    assert wait == DEFAULT_TIMINGS.pod_grace
    await asyncio.sleep(wait.total_seconds())
    assert await bench.process("n1") is None
    status, reason, message = bench.ready()
    assert (status, reason) == ("False", "NoTargetPod")
    assert "of pod gpu-operator/plugin-n1 is not ready; " in message
    assert bench.kube.exec.calls == []
    bench.see_pod(put_pod(bench.kube, "n1"))
    await bench.process("n1")
    assert bench.ready()[:2] == ("True", "ReadOK")


async def test_a_node_that_returns_is_read_when_its_container_is_ready(bench: ReadBench) -> None:
    await read(bench)
    bench.kube.remove(node_path("n1"))
    lose_pod(bench)
    await bench.process("n1")
    await asyncio.sleep(48 * 3600)
    put_node(bench.kube, "n1")
    bench.see_pod(put_pod(bench.kube, "n1", number=2, ready=False))
    await bench.process("n1")
    assert bench.status()["state"] == "Departed"
    assert len(bench.kube.exec.calls) == 1
    bench.see_pod(put_pod(bench.kube, "n1", number=2))
    await bench.process("n1")
    assert bench.status()["state"] == "Present"


async def test_a_departure_is_written_once(bench: ReadBench) -> None:
    await read(bench)
    bench.kube.remove(node_path("n1"))
    lose_pod(bench)
    await bench.process("n1")
    asked = len(bench.kube.requests)
    assert await bench.process("n1") is None
    assert len(bench.kube.requests) == asked


async def test_a_node_that_vanished_before_anything_was_written_leaves_nothing(
    bench: ReadBench,
) -> None:
    await asyncio.sleep(1)
    assert await bench.process("n1") is None
    assert inventory_path("n1") not in bench.kube.objects


async def test_a_departed_node_that_has_a_node_again_is_not_departed_twice(
    bench: ReadBench,
) -> None:
    await read(bench)
    bench.kube.remove(node_path("n1"))
    lose_pod(bench)
    await bench.process("n1")
    bench.see_node(put_node(bench.kube, "n1"))
    bench.kube.remove(node_path("n1"))
    await asyncio.sleep(120)
    await bench.process("n1")
    assert bench.history().count("NodeDeparted") == 1


async def test_a_node_that_returns_is_read_and_its_gpus_are_new(bench: ReadBench) -> None:
    await read(bench)
    bench.kube.remove(node_path("n1"))
    lose_pod(bench)
    await bench.process("n1")
    put_node(bench.kube, "n1", machine="i-other")
    bench.see_pod(put_pod(bench.kube, "n1"))
    await bench.process("n1")
    assert bench.status()["state"] == "Present"
    assert bench.history()[-4:] == ["NodeReturned", "GPUAdded", "GPUAdded", "Sighted"]


async def test_an_inventory_that_a_user_created_shows_the_missing_pod(bench: ReadBench) -> None:
    await asyncio.sleep(1)
    put_node(bench.kube, "n1", gpus=None)
    bench.inventory_changed(put_inventory(bench.kube, "n1"))
    await bench.process("n1")
    assert bench.ready()[:2] == ("False", "NoTargetPod")


async def test_an_unreachable_api_server_decides_nothing(bench: ReadBench) -> None:
    await read(bench)
    lose_pod(bench)
    bench.kube.fail("GET", "/nodes/n1$", server_error())
    with pytest.raises(type(server_error())):
        await bench.process("n1")
    assert bench.ready()[:2] == ("True", "ReadOK")
    assert await bench.process("n1") == timedelta(seconds=60)


async def test_a_404_that_does_not_come_from_the_api_decides_nothing(bench: ReadBench) -> None:
    """A load balancer answers like that, as does an API server that has just started."""
    await read(bench)
    lose_pod(bench)
    bench.kube.fail("GET", "/nodes/n1$", rejected(NotFound, 404, ""))
    with pytest.raises(ServerError, match="not from the API"):
        await bench.process("n1")
    assert bench.status()["state"] == "Present"


async def test_a_node_that_returns_does_not_wait_for_an_old_back_off(bench: ReadBench) -> None:
    await read(bench)
    bench.kube.exec.answer = ExecAnswer(cut=True)
    bench.see_pod(put_pod(bench.kube, "n1", number=2))
    await bench.process_until("n1", lambda: len(bench.kube.exec.calls) == 9)
    bench.kube.remove(node_path("n1"))
    lose_pod(bench)
    await asyncio.sleep(DEFAULT_TIMINGS.pod_grace.total_seconds())
    await bench.process()
    assert bench.status()["state"] == "Departed"
    bench.prints(machine("n1"))
    put_node(bench.kube, "n1")
    bench.see_pod(put_pod(bench.kube, "n1", number=2))
    await bench.process()
    assert bench.ready()[:2] == ("True", "ReadOK")


async def test_a_requested_read_without_a_pod_is_acknowledged(bench: ReadBench) -> None:
    await asyncio.sleep(1)
    put_node(bench.kube, "n1")
    bench.inventory_changed(put_inventory(bench.kube, "n1", annotations={REQUESTED_AT: "token-1"}))
    await bench.process()
    assert bench.ready()[:2] == ("False", "NoTargetPod")
    assert bench.status()["lastHandledRequest"] == "token-1"


@pytest.mark.parametrize("wrong", [timedelta(days=-400), timedelta(days=400)])
async def test_a_departure_is_dated_by_the_api_server_where_the_clock_is_wrong(
    bench: ReadBench, monkeypatch: pytest.MonkeyPatch, wrong: timedelta
) -> None:
    await read(bench)
    right = clock.START
    monkeypatch.setattr(clock, "START", right + wrong)
    lose_pod(bench)
    bench.kube.remove(node_path("n1"))
    await asyncio.sleep(DEFAULT_TIMINGS.pod_grace.total_seconds())
    await bench.process("n1")
    assert bench.status()["state"] == "Departed"
    monkeypatch.setattr(clock, "START", right)
    assert bench.status()["lastChangeTime"] == format_time(clock.now())
