"""The status writer: what it writes, how often, and whom it answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpuid_operator.api.inventory import InventoryState, InventoryStatus
from gpuid_operator.api.policy import Policy
from gpuid_operator.engine.writing.status_writer import StatusWritten
from gpuid_operator.kube.nodes import NodeFacts
from gpuid_operator.plan.status_change import StatusChange, StatusContext
from tests.support.kube import FakeKube
from tests.support.objects import (
    inventory_path,
    policy_path,
    put_inventory,
    put_node,
    put_policy,
)
from tests.support.smi_fixtures import machine, serials
from tests.support.writing import Writing, counting, reading, setting

STATUS = r"/gpuinventories/n1/status$"


@pytest.fixture
def writing(kube: FakeKube) -> Writing:
    return Writing(kube)


async def test_a_missing_inventory_is_created_with_its_status(
    kube: FakeKube, writing: Writing
) -> None:
    xml = machine("n1")
    change = await writing.status_writer.write("n1", reading(xml), create=True)
    assert change is not None
    body = kube.objects[inventory_path("n1")]
    assert body["status"]["gpuCount"] == 2
    assert body["status"] == change.status.to_json()
    serial = serials(xml)[0]
    assert body["metadata"]["labels"][f"serial.gpuid.github.com/{serial}"] == "present"
    assert body["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "gpuid-operator"
    cached = writing.inventories.get("n1")
    assert cached is not None
    assert cached.resource_version == body["metadata"]["resourceVersion"]
    # The creation sets the labels; so there is one write each, and no read.
    assert [one.method for one in kube.requests] == ["POST", "PATCH"]


async def test_a_missing_inventory_is_created_only_on_request(
    kube: FakeKube, writing: Writing
) -> None:
    assert await writing.status_writer.write("n1", setting(gpu_count=1)) is None
    assert kube.requests == []


async def test_an_inventory_without_a_status_gets_one_even_if_nothing_changes(
    kube: FakeKube, writing: Writing
) -> None:
    put_inventory(kube, "n1")
    writing.load("n1")
    await writing.status_writer.write("n1", setting(state=None))
    assert len(kube.asked("PATCH", STATUS)) == 1


async def test_a_status_that_does_not_change_is_not_written(
    kube: FakeKube, writing: Writing
) -> None:
    put_inventory(kube, "n1", status={"state": "Present", "gpuCount": 4})
    writing.load("n1")
    change = await writing.status_writer.write("n1", setting(gpu_count=4))
    assert change is not None
    assert change.status.gpu_count == 4
    assert kube.requests == []
    assert writing.written == []


async def test_a_decision_gets_what_is_in_force(kube: FakeKube, writing: Writing) -> None:
    put_policy(kube, "all", suspend=True)
    writing.state.policies.put(Policy.from_object(kube.objects[policy_path("all")]))
    writing.state.nodes.put(NodeFacts.from_node(put_node(kube, "n1")), requested=0.0)
    decided: list[StatusContext] = []

    def change(status: InventoryStatus, context: StatusContext) -> StatusChange:
        decided.append(context)
        return setting()(status, context)

    await writing.status_writer.write("n1", change, create=True)
    kube.change(inventory_path("n1"), lambda body: body.update(spec={"suspend": False}))
    writing.load("n1")
    await writing.status_writer.write("n1", change)
    assert [(context.policy, context.suspended, context.generation) for context in decided] == [
        ("all", True, 1),
        ("all", True, 2),
    ]


async def test_decisions_that_arrive_together_share_one_write(
    kube: FakeKube, writing: Writing
) -> None:
    put_inventory(kube, "n1", status={"state": "Present"})
    writing.load("n1")
    change, _ = counting()
    changes = await asyncio.gather(*(writing.status_writer.write("n1", change) for _ in range(3)))
    # Each decision builds on the one before it.
    assert [change.status.gpu_count for change in changes if change] == [1, 2, 3]
    assert len(kube.asked("PATCH", STATUS)) == 1
    assert writing.status("n1")["gpuCount"] == 3
    (written,) = writing.written
    assert written.changes == tuple(changes)
    assert (written.before.gpu_count, written.after.gpu_count) == (None, 3)


async def test_decisions_that_arrive_during_a_write_share_the_next_write(
    kube: FakeKube, writing: Writing
) -> None:
    put_inventory(kube, "n1", status={"state": "Present"})
    writing.load("n1")
    go = asyncio.Event()
    held_up = kube.fail("PATCH", STATUS, until=go)
    change, _ = counting()
    tasks = [asyncio.create_task(writing.status_writer.write("n1", change))]
    await held_up.met.wait()
    tasks += [asyncio.create_task(writing.status_writer.write("n1", change)) for _ in range(5)]
    await asyncio.sleep(1)
    assert len(kube.asked("PATCH", STATUS)) == 1
    go.set()
    await asyncio.gather(*tasks)
    assert [one.body["status"]["gpuCount"] for one in kube.asked("PATCH", STATUS)] == [1, 6]


async def test_nodes_do_not_wait_for_each_other(kube: FakeKube, writing: Writing) -> None:
    for name in ("n1", "n2"):
        put_inventory(kube, name, status={"state": "Present"})
        writing.load(name)
    go = asyncio.Event()
    kube.fail("PATCH", STATUS, until=go)
    slow = asyncio.create_task(writing.status_writer.write("n1", setting(gpu_count=1)))
    await writing.status_writer.write("n2", setting(gpu_count=2))
    assert writing.status("n2")["gpuCount"] == 2
    assert not slow.done()
    assert writing.status_writer.is_writing("n1")
    assert not writing.status_writer.is_writing("n2")
    go.set()
    await slow
    assert not writing.status_writer.is_writing("n1")


async def test_a_decision_on_a_replaced_inventory_does_not_apply(
    kube: FakeKube, writing: Writing
) -> None:
    put_inventory(kube, "n1", status={"state": "Present"})
    writing.load("n1")
    change, decisions = counting()
    old, new = await asyncio.gather(
        writing.status_writer.write("n1", change, uid="another-uid"),
        writing.status_writer.write("n1", setting(gpu_count=7), uid="uid-1"),
    )
    assert old is None
    assert new is not None
    assert decisions() == 0
    assert writing.status("n1")["gpuCount"] == 7
    assert writing.written[0].changes == (new,)


async def test_a_decision_on_a_deleted_inventory_does_not_apply_to_the_next_one(
    kube: FakeKube, writing: Writing
) -> None:
    change, decisions = counting()
    old, new = await asyncio.gather(
        writing.status_writer.write("n1", change, uid="uid-of-the-old"),
        writing.status_writer.write("n1", setting(gpu_count=7), create=True),
    )
    assert old is None
    assert new is not None
    assert decisions() == 0


async def test_an_inventory_that_cannot_be_parsed_is_not_written(
    kube: FakeKube, writing: Writing
) -> None:
    put_inventory(kube, "n1", status={"state": "FromTheFuture"})
    writing.load("n1")
    assert await writing.status_writer.write("n1", setting(gpu_count=1), create=True) is None
    assert kube.requests == []


async def test_an_inventory_whose_policy_cannot_be_parsed_is_not_written(
    kube: FakeKube, writing: Writing
) -> None:
    put_inventory(kube, "n1", status={"state": "Present", "policy": "newer"})
    writing.load("n1")
    put_policy(kube, "newer")
    writing.state.policies.put(Policy(name="newer", fault="spec: invalid"))
    assert await writing.status_writer.write("n1", setting(gpu_count=1), create=True) is None
    assert kube.requests == []


async def test_every_listener_receives_a_write(kube: FakeKube, writing: Writing) -> None:
    received: list[StatusWritten] = []
    writing.status_writer.add_listener(received.append)
    await writing.status_writer.write("n1", setting(gpu_count=1), create=True)
    assert received == writing.written
    assert received[0].uid == kube.objects[inventory_path("n1")]["metadata"]["uid"]
    assert received[0].after.state is InventoryState.PRESENT


async def test_results_of_foreign_checks_are_not_applied(kube: FakeKube, writing: Writing) -> None:
    checks = [
        {"name": "mine", "passed": True, "transitions": 0},
        {"name": "theirs", "passed": False, "transitions": 3},
        {"name": "untold", "passed": True},
    ]
    put_inventory(kube, "n1", status={"state": "Present", "checks": checks})
    fields: dict[str, Any] = {
        f'k:{{"name":"{name}"}}': {"f:passed": {}} for name in ("theirs", "untold")
    }
    managed = [{"manager": "runner", "fieldsV1": {"f:status": {"f:checks": fields}}}]
    kube.change(inventory_path("n1"), lambda body: body["metadata"].update(managedFields=managed))
    writing.load("n1")
    known = writing.inventories.status("n1").checks or []
    recorded = [
        check.model_copy(update={"recorded": 3}) if check.name == "theirs" else check
        for check in known
    ]
    decided: list[StatusContext] = []

    def change(status: InventoryStatus, context: StatusContext) -> StatusChange:
        decided.append(context)
        return setting(checks=recorded)(status, context)

    await writing.status_writer.write("n1", change)
    # No policy has any of these checks; the foreign ones are kept nevertheless.
    assert [context.checks for context in decided] == [frozenset({"theirs", "untold"})]
    (sent,) = kube.asked("PATCH", STATUS)
    assert sent.body["status"]["checks"] == [
        {"name": "mine", "passed": True, "transitions": 0},
        {"name": "theirs", "recorded": 3},
    ]
    # The other instance loses none of its fields.
    theirs = writing.status("n1")["checks"][1]
    assert theirs == {"name": "theirs", "passed": False, "transitions": 3, "recorded": 3}


async def test_finish_waits_for_a_write(kube: FakeKube, writing: Writing) -> None:
    go = asyncio.Event()
    held_up = kube.fail("POST", "/gpuinventories$", until=go)
    task = asyncio.create_task(writing.status_writer.write("n1", setting(gpu_count=1), create=True))
    await held_up.met.wait()
    asyncio.get_running_loop().call_later(5, go.set)
    assert await writing.status_writer.finish(within=10)
    assert (await task) is not None
    assert writing.status("n1")["gpuCount"] == 1


async def test_finish_abandons_a_write_that_takes_too_long(
    kube: FakeKube, writing: Writing
) -> None:
    held_up = kube.fail("POST", "/gpuinventories$", until=asyncio.Event())
    task = asyncio.create_task(writing.status_writer.write("n1", setting(gpu_count=1), create=True))
    await held_up.met.wait()
    assert not await writing.status_writer.finish(within=10)
    assert kube.objects == {}
    assert not writing.status_writer.is_writing("n1")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_decision_whose_caller_was_cancelled_is_written(
    kube: FakeKube, writing: Writing
) -> None:
    go = asyncio.Event()
    held_up = kube.fail("POST", "/gpuinventories$", until=go)
    task = asyncio.create_task(writing.status_writer.write("n1", setting(gpu_count=1), create=True))
    await held_up.met.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert await writing.status_writer.finish(within=10)
    assert writing.status("n1")["gpuCount"] == 1
