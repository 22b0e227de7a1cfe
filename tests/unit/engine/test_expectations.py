"""A policy's `expect` in the engine: judged without a read, told once, shown as a metric."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.engines import EngineHarness, until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import EVENTS, FakeKube
from tests.support.objects import inventory_path, node_path, pod_path, put_node, put_pod, put_policy
from tests.support.smi_fixtures import machine, without


@pytest.fixture
async def harness(kube: FakeKube) -> AsyncIterator[EngineHarness]:
    kube.exec.answer = ExecAnswer(stdout=machine("n1").encode())
    put_node(kube, "n1")
    put_pod(kube, "n1")
    harness = EngineHarness(kube)
    yield harness
    await harness.engine.stop(within=1)


def said(harness: EngineHarness) -> tuple[str, str, str] | None:
    """Status, reason and message of AsExpected."""
    body = harness.kube.objects.get(inventory_path("n1"), {})
    for one in body.get("status", {}).get("conditions", ()):
        if one["type"] == "AsExpected":
            return one["status"], one["reason"], one["message"]
    return None


def delivered(harness: EngineHarness) -> bool:
    status = harness.kube.objects.get(inventory_path("n1"), {}).get("status", {})
    return [sink["pending"] for sink in status.get("sinks", ())] == [0]


def events(harness: EngineHarness) -> list[tuple[str, str, str]]:
    posted = [one.body for one in harness.kube.asked("POST", EVENTS)]
    return [(one["type"], one["reason"], one["message"]) for one in posted]


def metric(harness: EngineHarness) -> list[str]:
    lines = harness.metrics.render()[1].decode().splitlines()
    return [line for line in lines if line.startswith("gpuid_node_as_expected")]


def expect(harness: EngineHarness, **expected: Any) -> dict[str, Any]:
    """Create or change the policy, and pass its event on."""
    body = put_policy(harness.kube, "fleet", **({"expect": expected} if expected else {}))
    harness.engine.policy_event(body, deleted=False)
    return body


async def test_a_node_with_too_few_gpus_is_told_at_its_first_read(harness: EngineHarness) -> None:
    put_policy(harness.kube, "fleet", expect={"gpus": 8})
    await harness.engine.start()
    await until(lambda: delivered(harness))
    message = "6 of 8 expected GPUs are missing: the node has 2"
    assert said(harness) == ("False", "TooFewGPUs", message)
    assert events(harness) == [("Warning", "ExpectationFailed", message)]
    (record,) = [one for one in harness.records if one["event"] == "ExpectationFailed"]
    assert (record["gpu"], record["uuid"], record["from"]) == ("na", None, None)
    assert record["to"] == "TooFewGPUs"
    assert metric(harness) == ['gpuid_node_as_expected{node="n1"} 0.0']


async def test_a_change_of_the_policy_is_judged_without_a_read(harness: EngineHarness) -> None:
    await harness.engine.start()
    await until(lambda: delivered(harness))
    assert said(harness) is None
    assert metric(harness) == []
    expect(harness, gpus=2)
    await until(lambda: said(harness) == ("True", "AsExpected", ""))
    assert metric(harness) == ['gpuid_node_as_expected{node="n1"} 1.0']
    expect(harness, gpus=2, drivers=["1.2.3"])
    await until(lambda: (said(harness) or ())[1:2] == ("OtherDriver",))
    expect(harness)
    await until(lambda: said(harness) is None)
    await until(lambda: len(harness.records) == 4)
    assert [(one["event"], one["from"], one["to"]) for one in harness.records[2:]] == [
        ("ExpectationFailed", "AsExpected", "OtherDriver"),
        ("ExpectationMet", "OtherDriver", None),
    ]
    assert len(harness.kube.exec.calls) == 1
    assert metric(harness) == []


async def test_a_restart_says_nothing_again(harness: EngineHarness) -> None:
    put_policy(harness.kube, "fleet", expect={"gpus": 8})
    await harness.engine.start()
    await until(lambda: delivered(harness))
    await harness.engine.stop(within=10)
    version, told = harness.kube.version, len(events(harness))
    successor = EngineHarness(harness.kube)
    await successor.engine.start()
    assert metric(successor) == ['gpuid_node_as_expected{node="n1"} 0.0']
    harness.kube.exec.answer = ExecAnswer(stdout=machine("n2").encode())
    put_node(harness.kube, "n2")
    successor.pod_event(put_pod(harness.kube, "n2"))
    # The new node comes after the old one in the queue.
    await until(lambda: inventory_path("n2") in harness.kube.objects)
    await successor.engine.stop(within=10)
    body = harness.kube.objects[inventory_path("n1")]
    assert int(body["metadata"]["resourceVersion"]) <= version
    assert [one for one in events(harness)[told:] if "n1" in one[2]] == []


async def test_a_policy_that_changed_while_the_operator_was_away_is_judged(
    harness: EngineHarness,
) -> None:
    await harness.engine.start()
    await until(lambda: delivered(harness))
    await harness.engine.stop(within=10)
    put_policy(harness.kube, "fleet", expect={"gpus": 8})
    successor = EngineHarness(harness.kube)
    await successor.engine.start()
    await until(lambda: (said(harness) or ())[1:2] == ("TooFewGPUs",))
    await successor.engine.stop(within=10)
    assert len(harness.kube.exec.calls) == 1


async def test_a_departed_node_is_as_nobody_knows(harness: EngineHarness) -> None:
    put_policy(harness.kube, "fleet", expect={"gpus": 8})
    await harness.engine.start()
    await until(lambda: delivered(harness))
    body = harness.kube.objects[pod_path("plugin-n1")]
    harness.kube.remove(pod_path("plugin-n1"))
    harness.kube.remove(node_path("n1"))
    harness.pod_event(body, deleted=True)
    await until(lambda: (said(harness) or ())[:2] == ("Unknown", "NodeDeparted"))
    assert metric(harness) == []
    harness.kube.exec.answer = ExecAnswer(stdout=without(machine("n1"), 0).encode())
    put_node(harness.kube, "n1")
    harness.pod_event(put_pod(harness.kube, "n1", number=2))
    await until(lambda: (said(harness) or ())[:2] == ("False", "TooFewGPUs"))
