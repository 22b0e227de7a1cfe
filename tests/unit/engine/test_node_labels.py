"""gpuid's labels on Nodes follow the last read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpuid_operator.api.policy import Policy
from gpuid_operator.engine.core.idle_gate import IdleGate
from gpuid_operator.engine.writing.node_labels import NodeLabeller
from gpuid_operator.kube.nodes import NodeFacts
from tests.support.engines import until
from tests.support.kube import FakeKube, forbidden, unreachable
from tests.support.objects import node_path, put_inventory, put_node, put_policy
from tests.support.writing import Writing

NODE = "/nodes/n1$"
LABELS = {
    "gpuid.github.com/chassis": "c1",
    "gpuid.github.com/chassis-count": "1",
    "gpuid.github.com/gpu-0": "s1",
    "gpuid.github.com/gpu-1": "s2",
}
STATUS: dict[str, Any] = {
    "state": "Present",
    "gpus": [{"serial": serial, "chassisSerial": "c1"} for serial in ("s2", "s1")],
}


@pytest.fixture
async def writing(kube: FakeKube) -> Writing:
    """One node with a successful read, and with a label of a user."""
    writing = Writing(kube)
    writing.state.nodes.put(
        NodeFacts.from_node(put_node(kube, "n1", labels={"zone": "a"})), requested=0.0
    )
    put_inventory(kube, "n1", status=STATUS)
    writing.load("n1")
    return writing


@pytest.fixture
def idle_gate() -> IdleGate:
    return IdleGate()


@pytest.fixture
def labeller(kube: FakeKube, writing: Writing, idle_gate: IdleGate) -> NodeLabeller:
    return NodeLabeller(kube, state=writing.state, idle_gate=idle_gate)


def labels_of(kube: FakeKube) -> dict[str, str]:
    labels: dict[str, str] = kube.objects[node_path("n1")]["metadata"]["labels"]
    return labels


def edit_labels(kube: FakeKube, **labels: str) -> None:
    kube.change(node_path("n1"), lambda body: body["metadata"]["labels"].update(labels))


def set_status(kube: FakeKube, writing: Writing, **status: Any) -> None:
    put_inventory(kube, "n1", status=STATUS | status)
    writing.load("n1")


def put(kube: FakeKube, writing: Writing, **spec: Any) -> None:
    writing.state.policies.put(Policy.from_object(put_policy(kube, "all", **spec)))


async def test_labels_are_written_once(kube: FakeKube, labeller: NodeLabeller) -> None:
    await labeller.sync("n1")
    assert labels_of(kube) == {"zone": "a"} | LABELS
    await labeller.sync("n1")
    assert len(kube.requests) == 1


async def test_the_cached_node_has_the_written_labels(
    kube: FakeKube, writing: Writing, labeller: NodeLabeller
) -> None:
    before = writing.state.nodes["n1"].facts
    await labeller.sync("n1")
    facts = writing.state.nodes["n1"].facts
    assert facts == NodeFacts.from_node(kube.objects[node_path("n1")])
    assert facts.resource_version != before.resource_version


async def test_labels_of_removed_gpus_are_removed(
    kube: FakeKube, writing: Writing, labeller: NodeLabeller
) -> None:
    await labeller.sync("n1")
    set_status(kube, writing, gpus=[{"serial": "s1", "chassisSerial": "c1"}])
    await labeller.sync("n1")
    assert "gpuid.github.com/gpu-1" not in labels_of(kube)
    assert labels_of(kube)["zone"] == "a"


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"gpus": None}, id="never read"),
        pytest.param({"state": "Departed"}, id="departed"),
    ],
)
async def test_a_node_without_present_gpus_keeps_its_labels(
    kube: FakeKube, writing: Writing, labeller: NodeLabeller, status: dict[str, Any]
) -> None:
    set_status(kube, writing, **status)
    await labeller.sync("n1")
    assert kube.requests == []


async def test_a_node_without_facts_or_inventory_keeps_its_labels(
    kube: FakeKube, writing: Writing, labeller: NodeLabeller
) -> None:
    await labeller.sync("n2")
    writing.inventories.remove("n1")
    await labeller.sync("n1")
    assert kube.requests == []


async def test_a_suspended_node_keeps_its_labels(
    kube: FakeKube, writing: Writing, labeller: NodeLabeller
) -> None:
    put(kube, writing, suspend=True)
    await labeller.sync("n1")
    assert kube.requests == []


async def test_a_skipped_node_keeps_its_labels(
    kube: FakeKube, writing: Writing, labeller: NodeLabeller
) -> None:
    set_status(kube, writing, policy="newer")
    writing.state.policies.put(Policy(name="newer", fault="spec: invalid"))
    await labeller.sync("n1")
    assert kube.requests == []


async def test_labels_are_removed_where_a_policy_turns_them_off(
    kube: FakeKube, writing: Writing, labeller: NodeLabeller
) -> None:
    await labeller.sync("n1")
    put(kube, writing, nodeLabels=False)
    await labeller.sync("n1")
    assert labels_of(kube) == {"zone": "a"}


async def test_a_conflict_is_resolved_by_a_read(kube: FakeKube, labeller: NodeLabeller) -> None:
    edit_labels(kube, zone="b")
    await labeller.sync("n1")
    assert labels_of(kube) == {"zone": "b"} | LABELS
    assert [one.method for one in kube.requests] == ["PATCH", "GET", "PATCH"]


async def test_labels_that_keep_conflicting_are_written_by_the_next_sync(
    kube: FakeKube, labeller: NodeLabeller, caplog: pytest.LogCaptureFixture
) -> None:
    async def kubelet() -> None:
        number = 0
        while True:
            number += 1
            edit_labels(kube, heartbeat=str(number))
            await asyncio.sleep(0)

    task = asyncio.create_task(kubelet())
    await labeller.sync("n1")
    task.cancel()
    assert [one.method for one in kube.requests] == ["PATCH", "GET"] * 4
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await labeller.sync("n1")
    assert LABELS.items() <= labels_of(kube).items()


@pytest.mark.parametrize("conflict", [True, False])
async def test_a_node_that_is_gone_is_removed_from_the_cache(
    kube: FakeKube, writing: Writing, labeller: NodeLabeller, conflict: bool
) -> None:
    if conflict:
        edit_labels(kube, zone="b")
        go = asyncio.Event()
        read = kube.fail("GET", NODE, until=go)
        task = asyncio.create_task(labeller.sync("n1"))
        await read.met.wait()
        kube.remove(node_path("n1"))
        go.set()
        await task
    else:
        kube.remove(node_path("n1"))
        await labeller.sync("n1")
    assert "n1" not in writing.state.nodes


@pytest.mark.parametrize("error", [forbidden(), unreachable()])
async def test_labels_that_failed_are_written_by_the_next_sync(
    kube: FakeKube, labeller: NodeLabeller, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    kube.fail("PATCH", NODE, error)
    await labeller.sync("n1")
    assert labels_of(kube) == {"zone": "a"}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await labeller.sync("n1")
    assert labels_of(kube) == {"zone": "a"} | LABELS


async def test_labels_are_written_at_once_where_no_node_waits(
    kube: FakeKube, labeller: NodeLabeller
) -> None:
    await labeller.update("n1")
    assert labels_of(kube) == {"zone": "a"} | LABELS


async def test_labels_wait_until_no_node_waits(
    kube: FakeKube, labeller: NodeLabeller, idle_gate: IdleGate
) -> None:
    loops = [asyncio.ensure_future(loop()) for loop in labeller.loops()]
    idle_gate.update(1)
    await labeller.update("n1")
    await labeller.update("n1")
    await asyncio.sleep(1)
    assert kube.requests == []
    idle_gate.update(0)
    await until(lambda: labels_of(kube) == {"zone": "a"} | LABELS)
    assert len(kube.requests) == 1
    for loop in loops:
        loop.cancel()
