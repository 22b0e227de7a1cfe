"""The reconciler does everything that is due for a node, and retries after a failure."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.support.engines import EngineHarness, until
from tests.support.fake_exec import ExecAnswer, ExecCall
from tests.support.kube import FakeKube, server_error
from tests.support.objects import (
    inventory_path,
    node_path,
    put_inventory,
    put_node,
    put_pod,
    put_policy,
)
from tests.support.smi_fixtures import machine, serials

RUNNER = "someone-elses-runner"
GPU_0 = {"gpuid.github.com/gpu-0"}


@pytest.fixture
async def harness(kube: FakeKube) -> AsyncIterator[EngineHarness]:
    kube.exec.answer = ExecAnswer(stdout=machine("n1").encode())
    put_node(kube, "n1")
    put_pod(kube, "n1")
    harness = EngineHarness(kube)
    yield harness
    await harness.engine.stop(within=1)


def status(kube: FakeKube, name: str = "n1") -> dict[str, Any]:
    found: dict[str, Any] = kube.objects.get(inventory_path(name), {}).get("status", {})
    return found


def labels(kube: FakeKube, name: str) -> dict[str, str]:
    found: dict[str, str] = kube.objects[node_path(name)]["metadata"]["labels"]
    return found


def condition(kube: FakeKube, kind: str, name: str = "n1") -> dict[str, Any]:
    conditions = status(kube, name).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


async def settled(harness: EngineHarness) -> None:
    """Until the node was read and its history delivered."""
    await harness.engine.start()
    await until(lambda: [sink["pending"] for sink in status(harness.kube).get("sinks", [])] == [0])


async def test_another_policy_is_shown_without_a_read(harness: EngineHarness) -> None:
    await settled(harness)
    harness.engine.policy_event(put_policy(harness.kube, "p", sinks=[]), deleted=False)
    await until(lambda: status(harness.kube)["policy"] == "p")
    assert status(harness.kube).get("sinks", []) == []
    assert len(harness.kube.exec.calls) == 1


async def test_the_built_in_policy_replaces_a_deleted_one(harness: EngineHarness) -> None:
    body = put_policy(harness.kube, "p")
    await settled(harness)
    assert status(harness.kube)["policy"] == "p"
    harness.kube.remove("/apis/gpuid.github.com/v1alpha1/gpuinventorypolicies/p")
    harness.engine.policy_event(body, deleted=True)
    await until(lambda: status(harness.kube)["policy"] == "")


async def test_the_status_shows_suspension_and_its_end(harness: EngineHarness) -> None:
    await settled(harness)
    harness.kube.change(inventory_path("n1"), lambda body: body["spec"].update(suspend=True))
    await until(lambda: condition(harness.kube, "Ready")["reason"] == "Suspended")
    assert condition(harness.kube, "Ready")["status"] == "True"
    harness.kube.change(inventory_path("n1"), lambda body: body["spec"].update(suspend=False))
    await until(lambda: condition(harness.kube, "Ready")["reason"] == "ReadOK")
    assert len(harness.kube.exec.calls) == 1


async def test_another_spec_is_acknowledged_by_its_generation(harness: EngineHarness) -> None:
    await settled(harness)
    harness.kube.change(inventory_path("n1"), lambda body: body["spec"].update(readInterval="1h"))
    await until(lambda: status(harness.kube)["observedGeneration"] == 2)


async def test_an_inventory_without_a_status_is_read_and_not_reconsidered(
    harness: EngineHarness,
) -> None:
    put_inventory(harness.kube, "n1")
    await settled(harness)
    assert status(harness.kube)["gpuCount"] == 2


async def test_the_history_records_a_result_of_another_instance(
    harness: EngineHarness,
) -> None:
    await settled(harness)
    key = "k:" + orjson.dumps({"name": "nccl"}).decode()
    fields: dict[str, Any] = {"f:status": {"f:checks": {key: {"f:name": {}, "f:passed": {}}}}}

    def fail_check(body: dict[str, Any]) -> None:
        body["metadata"]["managedFields"] = [{"manager": RUNNER, "fieldsV1": fields}]
        body["status"]["checks"] = [
            {"name": "nccl", "passed": False, "transitions": 1, "exitCode": 1}
        ]

    harness.kube.change(inventory_path("n1"), fail_check)
    await until(lambda: status(harness.kube)["history"][-1]["type"] == "CheckFailed")
    assert condition(harness.kube, "ChecksPassed")["status"] == "False"
    await until(lambda: harness.records[-1]["event"] == "CheckFailed")


async def test_look_up_labels_that_could_not_be_written_are_written_later(
    harness: EngineHarness,
) -> None:
    harness.kube.fail("PATCH", "/gpuinventories/n1$", server_error(), times=2)
    await settled(harness)
    # The labels go with the creation; they change with the hardware.
    harness.kube.change(inventory_path("n1"), lambda body: body["metadata"]["labels"].clear())
    harness.kube.exec.answer = ExecAnswer(stdout=machine("n1", gpus=3).encode())
    harness.pod_event(put_pod(harness.kube, "n1", number=2))
    await until(lambda: status(harness.kube)["gpuCount"] == 3)
    await until(lambda: len(harness.kube.objects[inventory_path("n1")]["metadata"]["labels"]) >= 3)
    assert len(harness.kube.exec.calls) == 2


async def test_a_read_brings_the_labels_of_the_node(harness: EngineHarness) -> None:
    await settled(harness)
    await until(lambda: harness.kube.objects[node_path("n1")]["metadata"]["labels"])
    labels = harness.kube.objects[node_path("n1")]["metadata"]["labels"]
    assert set(serials(machine("n1"))) <= set(labels.values())


async def test_labels_that_a_user_removed_are_written_again(harness: EngineHarness) -> None:
    await settled(harness)
    harness.kube.change(node_path("n1"), lambda body: body["metadata"]["labels"].clear())
    await until(lambda: harness.kube.objects[node_path("n1")]["metadata"]["labels"])
    labels = harness.kube.objects[node_path("n1")]["metadata"]["labels"]
    assert set(serials(machine("n1"))) <= set(labels.values())
    assert len(harness.kube.exec.calls) == 1


class TestFailure:
    """The reconciler retries a node that fails, and the other nodes do not wait for it."""

    @pytest.fixture
    def two(self, harness: EngineHarness) -> EngineHarness:
        put_node(harness.kube, "n2")
        put_pod(harness.kube, "n2")
        return harness

    async def test_a_status_that_cannot_be_written(
        self, two: EngineHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        two.kube.fail("PATCH", "/n1/status$", server_error(), times=20)
        await two.engine.start()
        await until(lambda: status(two.kube, "n2"))
        assert not status(two.kube, "n1")
        await until(lambda: status(two.kube, "n1"))
        assert two.kube.exec.most <= 2
        said = [one for one in caplog.records if one.name.endswith("reconciler")]
        assert {record.levelname for record in said} == {"WARNING"}
        assert len(said) >= 3

    async def test_an_unexpected_error(
        self, two: EngineHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = [True] * 4

        def decide(call: ExecCall) -> ExecAnswer:
            if call.pod == "plugin-n1" and broken:
                broken.pop()
                raise ZeroDivisionError
            return ExecAnswer(stdout=machine("n1").encode())

        two.kube.exec.decide = decide
        await two.engine.start()
        await until(lambda: status(two.kube, "n2"))
        await until(lambda: status(two.kube, "n1"))
        times = [call.time for call in two.kube.exec.calls if call.pod == "plugin-n1"]
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        for pause, bound in zip(pauses, (1, 2, 4, 8), strict=True):
            assert bound / 2 <= pause <= bound + 0.1
        faults = [record for record in caplog.records if record.exc_info]
        assert len(faults) == 4


class TestLeftAlone:
    """Invalid inventories and policies stop reads and writes of their nodes."""

    def reads(self, harness: EngineHarness) -> float:
        labels = {"result": "NotUnderstood"}
        return harness.metrics.registry.get_sample_value("gpuid_reads_total", labels) or 0

    async def test_an_inventory_that_cannot_be_understood(self, harness: EngineHarness) -> None:
        put_inventory(harness.kube, "n1", status={"state": "Elsewhere"})
        await harness.engine.start()
        await until(lambda: self.reads(harness))
        await asyncio.sleep(1200)
        assert harness.kube.exec.calls == []
        assert harness.kube.asked("PATCH", "/n1") == []
        (event,) = harness.kube.asked("POST", "/events$")
        assert event.body["reason"] == "NotUnderstood"

    async def test_it_is_read_once_it_is_corrected(self, harness: EngineHarness) -> None:
        put_inventory(harness.kube, "n1", status={"state": "Elsewhere"})
        await harness.engine.start()
        await until(lambda: self.reads(harness))
        harness.kube.change(inventory_path("n1"), lambda body: body.pop("status"))
        await until(lambda: status(harness.kube).get("gpuCount") == 2)

    async def test_a_policy_that_cannot_be_understood(self, harness: EngineHarness) -> None:
        put_policy(harness.kube, "p", priority="high")
        put_inventory(harness.kube, "n1", status={"state": "Present", "policy": "p"})
        await harness.engine.start()
        await until(lambda: self.reads(harness))
        await asyncio.sleep(1200)
        assert harness.kube.exec.calls == []
        assert harness.kube.asked("PATCH", "/n1") == []


async def test_the_number_of_nodes_that_wait_is_a_metric(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(hang=True)
    for number in range(6):
        put_node(kube, f"n{number}")
        put_pod(kube, f"n{number}")
    harness = EngineHarness(kube, workers=2)
    await harness.engine.start()
    await until(lambda: kube.exec.running == 2)
    harness.engine.count()
    assert harness.metrics.registry.get_sample_value("gpuid_queue_depth") == 4
    await harness.engine.stop(within=1)


async def test_a_success_ends_the_back_off_of_the_reconciler(harness: EngineHarness) -> None:
    failing = [True]

    def decide(call: ExecCall) -> ExecAnswer:
        if failing:
            raise ZeroDivisionError
        return ExecAnswer(stdout=machine("n1").encode())

    calls = harness.kube.exec.calls
    harness.kube.exec.decide = decide
    await harness.engine.start()
    await until(lambda: len(calls) == 5)
    failing.clear()
    await until(lambda: status(harness.kube))
    failing.append(True)
    before = len(calls)
    harness.pod_event(put_pod(harness.kube, "n1", number=2))
    await until(lambda: len(calls) == before + 2)
    assert calls[-1].time - calls[-2].time <= 1


async def test_acknowledgements_wait_until_every_node_has_a_worker(kube: FakeKube) -> None:
    def decide(call: ExecCall) -> ExecAnswer:
        delay = 0 if call.pod == "plugin-n0" else 5
        return ExecAnswer(stdout=machine(call.pod).encode(), delay=delay)

    kube.exec.decide = decide
    for number in range(4):
        put_node(kube, f"n{number}")
        put_pod(kube, f"n{number}")
    harness = EngineHarness(kube, workers=1)
    await harness.engine.start()
    await until(lambda: [sink["pending"] for sink in status(kube, "n0").get("sinks", [])] == [0])
    assert len(kube.exec.calls) == 4
    await harness.engine.stop(within=1)


async def test_node_labels_wait_until_every_node_has_a_worker(kube: FakeKube) -> None:
    labelled: list[int] = []

    def decide(call: ExecCall) -> ExecAnswer:
        labelled.append(sum(labels(kube, f"n{number}").keys() >= GPU_0 for number in range(4)))
        return ExecAnswer(stdout=machine(call.pod).encode(), delay=5)

    kube.exec.decide = decide
    for number in range(4):
        put_node(kube, f"n{number}")
        put_pod(kube, f"n{number}")
    harness = EngineHarness(kube, workers=1)
    await harness.engine.start()
    await until(lambda: all(labels(kube, f"n{number}").keys() >= GPU_0 for number in range(4)))
    assert labelled == [0, 0, 0, 0]
    await harness.engine.stop(within=1)


async def test_new_nodes_and_requested_reads_come_before_those_that_are_due(
    kube: FakeKube,
) -> None:
    delay = 0
    kube.exec.decide = lambda call: ExecAnswer(stdout=machine(call.pod).encode(), delay=delay)
    for number in range(3):
        put_node(kube, f"n{number}")
        put_pod(kube, f"n{number}")
    harness = EngineHarness(kube, workers=1)
    await harness.engine.start()
    await until(lambda: all(status(kube, f"n{number}").get("sinks") for number in range(3)))
    delay = 5
    harness.pod_event(put_pod(kube, "n0", number=2))
    await until(lambda: kube.exec.running == 1)
    harness.pod_event(put_pod(kube, "n1", number=2))
    put_node(kube, "n3")
    harness.pod_event(put_pod(kube, "n3"))
    asked = {"gpuid.github.com/requestedAt": "now"}
    kube.change(inventory_path("n2"), lambda body: body["metadata"].update(annotations=asked))
    await until(lambda: len(kube.exec.calls) == 7)
    assert {call.pod for call in kube.exec.calls[4:6]} == {"plugin-n2", "plugin-n3"}
    assert kube.exec.calls[6].pod == "plugin-n1"
    await harness.engine.stop(within=1)
