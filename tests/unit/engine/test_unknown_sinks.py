"""The operator skips nodes with a sink of a type that this version does not know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.engines import EngineHarness, until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube
from tests.support.objects import (
    UNKNOWN_SINK,
    inventory_path,
    policy_path,
    put_inventory,
    put_node,
    put_pod,
    put_policy,
)
from tests.support.smi_fixtures import machine


@pytest.fixture
async def harness(kube: FakeKube) -> AsyncIterator[EngineHarness]:
    kube.exec.answer = ExecAnswer(stdout=machine("n1").encode())
    harness = EngineHarness(kube)
    yield harness
    await harness.engine.stop(within=1)


def skips(harness: EngineHarness) -> float:
    labels = {"result": "NotUnderstood"}
    return harness.metrics.registry.get_sample_value("gpuid_reads_total", labels) or 0


def is_untouched(kube: FakeKube) -> bool:
    """Whether n1 was neither read nor written."""
    return kube.exec.calls == [] and kube.asked("PATCH", "/n1") == []


async def test_a_policy_with_one_says_so_until_it_is_corrected(harness: EngineHarness) -> None:
    kube = harness.kube
    put_node(kube, "n1")
    put_pod(kube, "n1")
    put_policy(kube, "p", sinks=[UNKNOWN_SINK])
    await harness.engine.start()
    await until(lambda: skips(harness))
    await asyncio.sleep(1200)
    assert is_untouched(kube)
    ready = {"type": "Ready", "status": "False", "reason": "InvalidSink"}
    conditions = kube.objects[policy_path("p")]["status"]["conditions"]
    assert any(ready.items() <= condition.items() for condition in conditions)
    harness.engine.policy_event(put_policy(kube, "p", sinks=[]), deleted=False)
    await until(lambda: kube.objects.get(inventory_path("n1"), {}).get("status"))
    assert len(kube.exec.calls) == 1


async def test_a_new_node_that_such_a_policy_selects_is_not_read(harness: EngineHarness) -> None:
    """The Node, whose labels select the policy, is fetched at the first read."""
    kube = harness.kube
    put_policy(kube, "p", sinks=[UNKNOWN_SINK])
    await harness.engine.start()
    put_node(kube, "n1")
    harness.pod_event(put_pod(kube, "n1"))
    await until(lambda: skips(harness))
    await asyncio.sleep(60)
    assert is_untouched(kube)


async def test_an_inventory_with_one_gets_an_event(harness: EngineHarness) -> None:
    kube = harness.kube
    put_node(kube, "n1")
    put_pod(kube, "n1")
    put_inventory(kube, "n1", spec={"sinks": [UNKNOWN_SINK]})
    await harness.engine.start()
    await until(lambda: skips(harness))
    await asyncio.sleep(1200)
    assert is_untouched(kube)
    (event,) = kube.asked("POST", "/events$")
    assert event.body["reason"] == "NotUnderstood"
    assert "spec.sinks: bus" in event.body["message"]
