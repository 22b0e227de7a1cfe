"""Which sinks get which records of which nodes."""

from __future__ import annotations

import asyncio

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.api.policy import Policy
from gpuid_operator.plan import status as plan
from gpuid_operator.plan.status_change import StatusChange, StatusContext
from tests.support import clock
from tests.support.deliveries import Deliveries, entries, sink
from tests.support.engines import until
from tests.support.kube import FakeKube
from tests.support.objects import inventory_path


async def test_records_are_sent_and_the_cursor_is_written(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 2)
    world.deliver("n1")
    await until(lambda: world.cursor("n1", "cmdb") == 2)
    cached = world.inventories.get("n1")
    assert cached is not None
    assert [post.ids for post in world.http.posts] == [
        tuple(f"{cached.uid}.{number}.1780826400" for number in (1, 2))
    ]
    assert world.status("n1")["sinks"][0]["lastDeliveryTime"] == "2026-06-07T10:30:46Z"


async def test_nodes_of_the_same_sink_share_a_batch(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    for node in ("n1", "n2", "n3"):
        world.put(node, 1)
    world.deliver("n1", "n2", "n3")
    await until(lambda: all(world.cursor(node, "cmdb") for node in ("n1", "n2", "n3")))
    assert [len(post.ids) for post in world.http.posts] == [3]


async def test_sightings_go_to_their_own_sinks(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"), sink("lake", records="sightings"))
    seen = {"sequence": 2, "time": "2026-06-07T10:00:00Z", "type": "Sighted", "seen": [{}, {}]}
    world.put("n1", 2, status={"history": [*entries(1), seen]})
    world.deliver("n1")
    await until(lambda: world.cursor("n1", "cmdb") == 2 and world.cursor("n1", "lake") == 2)
    assert {post.host: len(post.ids) for post in world.http.posts} == {"cmdb": 1, "lake": 2}


async def test_a_node_without_anything_to_deliver_costs_nothing(kube: FakeKube) -> None:
    """Unknown, without history, delivered already, or to be left alone: it opens no sink."""
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 0)
    cursors = [{"name": "cmdb", "type": "http", "deliveredSequence": 2, "pending": 0}]
    world.put("n2", 2, status={"sinks": cursors})
    world.put("n3", 1, policy="fleet")
    world.state.policies.put(Policy(name="fleet", fault="spec: invalid"))
    tasks = asyncio.all_tasks()
    world.deliver("n1", "n2", "n3", "n4")
    assert asyncio.all_tasks() == tasks


async def test_delivery_continues_after_the_cursor_when_the_operator_restarts(
    kube: FakeKube,
) -> None:
    world = Deliveries(kube, sink("cmdb"))
    cursors = [{"name": "cmdb", "type": "http", "deliveredSequence": 2, "pending": 1}]
    world.put("n1", 3, status={"sinks": cursors})
    world.deliver("n1")
    await until(lambda: world.cursor("n1", "cmdb") == 3)
    assert [len(post.ids) for post in world.http.posts] == [1]


async def test_a_node_under_a_policy_that_cannot_be_read_gets_nothing(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 1, policy="fleet")
    world.put("n2", 1)
    world.state.policies.put_all([Policy(name="fleet", fault="spec: invalid")])
    world.deliver("n1", "n2")
    await until(lambda: world.cursor("n2", "cmdb"))
    assert [len(post.ids) for post in world.http.posts] == [1]


def departs(previous: InventoryStatus, context: StatusContext) -> StatusChange:
    """A change that adds one entry."""
    return plan.after_departure(previous, now=clock.now(), context=context)


async def test_new_entries_are_delivered_when_they_are_written(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 0)
    await world.status_writer.write("n1", departs)
    await until(lambda: world.cursor("n1", "cmdb") == 1)
    assert [len(post.ids) for post in world.http.posts] == [1]


async def test_dropped_entries_are_not_sent(kube: FakeKube) -> None:
    """Entries that a full history drops are in no later attempt of a batch."""
    world = Deliveries(kube, sink("cmdb"))
    world.http.answer = lambda _: 503 if len(world.http.posts) == 1 else 200
    world.http.until = asyncio.Event()
    world.put("n1", 500)
    world.deliver("n1")
    await until(lambda: world.http.posts)
    await world.status_writer.write("n1", departs)
    kept = {entry["sequence"] for entry in world.status("n1")["history"]}
    gone = set(range(1, 501)) - kept
    assert gone
    world.http.until.set()
    await until(lambda: world.cursor("n1", "cmdb") == max(kept))
    first, *rest = [{int(one.split(".")[1]) for one in post.ids} for post in world.http.posts]
    assert gone <= first
    assert not gone & set().union(*rest)


async def test_a_forgotten_node_gets_nothing(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 1)
    world.put("n2", 1)
    world.deliver("n1", "n2")
    world.remove("n1")
    await until(lambda: world.cursor("n2", "cmdb") == 1)
    assert [len(post.ids) for post in world.http.posts] == [1]


async def test_a_recreated_inventory_starts_at_its_first_entry(kube: FakeKube) -> None:
    """Also when its delivery fails once, and nobody reported the end of the former."""
    world = Deliveries(kube, sink("cmdb"))
    world.http.answer = lambda _: 503 if len(world.http.posts) == 2 else 200
    world.put("n1", 3)
    world.deliver("n1")
    await until(lambda: world.cursor("n1", "cmdb") == 3)
    kube.remove(inventory_path("n1"))
    world.put("n1", 2)
    world.deliver("n1")
    await until(lambda: world.cursor("n1", "cmdb") == 2)
    assert [len(post.ids) for post in world.http.posts] == [3, 2, 2]


async def test_records_of_a_former_inventory_are_not_sent_again(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.http.answer = lambda _: 503 if len(world.http.posts) == 1 else 200
    world.put("n1", 3)
    world.deliver("n1")
    await until(lambda: world.http.posts)
    kube.remove(inventory_path("n1"))
    world.put("n1", 2)
    world.deliver("n1")
    await until(lambda: world.cursor("n1", "cmdb") == 2)
    assert [len(post.ids) for post in world.http.posts] == [3, 2]


async def test_a_batch_is_not_sent_again_once_its_policy_is_unreadable(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.http.answer = lambda _: 503 if len(world.http.posts) == 1 else 200
    world.put("n1", 1, policy="fleet")
    world.put("n2", 1)
    world.deliver("n1", "n2")
    await until(lambda: world.http.posts)
    world.state.policies.put(Policy(name="fleet", fault="spec: invalid"))
    await until(lambda: world.cursor("n2", "cmdb") == 1)
    assert [len(post.ids) for post in world.http.posts] == [2, 1]


async def test_a_record_is_sent_once_while_its_cursor_waits(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 2)
    world.idle_gate.update(1)
    world.deliver("n1")
    await until(lambda: world.http.posts)
    await world.status_writer.write("n1", departs)
    await until(lambda: len(world.http.posts) == 2)
    assert [len(post.ids) for post in world.http.posts] == [2, 1]
