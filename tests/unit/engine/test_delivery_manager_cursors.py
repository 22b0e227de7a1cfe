"""Cursors and errors that delivery writes into statuses, and its shutdown."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.deliveries import STATUS, Deliveries, sink
from tests.support.engines import until
from tests.support.kube import FakeKube, server_error, unreachable
from tests.support.objects import inventory_path, put_inventory


def conditions(world: Deliveries, node: str) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition."""
    return {one["type"]: (one["status"], one["reason"]) for one in world.status(node)["conditions"]}


async def test_a_cursor_is_written_only_after_the_delivery(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.http.until = asyncio.Event()
    world.put("n1", 1)
    world.deliver("n1")
    await until(lambda: world.http.posts)
    await asyncio.sleep(25)
    assert world.writes() == 0
    world.http.until.set()
    await until(lambda: world.cursor("n1", "cmdb") == 1)


async def test_cursors_wait_until_the_work_queue_is_idle(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 1)
    world.idle_gate.update(3)
    world.deliver("n1")
    await until(lambda: world.count("gpuid_records_delivered_total", "cmdb") == 1)
    await asyncio.sleep(5)
    assert world.writes() == 0
    world.idle_gate.update(0)
    await until(lambda: world.cursor("n1", "cmdb") == 1)


async def test_the_cursors_of_several_sinks_share_one_write(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("a"), sink("b"), sink("c"))
    world.put("n1", 1)
    world.idle_gate.update(1)
    world.deliver("n1")
    await until(lambda: len(world.http.posts) == 3)
    await asyncio.sleep(1)
    world.idle_gate.update(0)
    await until(lambda: world.cursor("n1", "a") == 1)
    assert [world.cursor("n1", name) for name in "abc"] == [1, 1, 1]
    assert world.writes() == 1


async def test_at_most_32_statuses_are_written_at_the_same_time(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    nodes = [f"n{number:02}" for number in range(40)]
    for node in nodes:
        world.put(node, 1)
    go_on = asyncio.Event()
    kube.fail("PATCH", STATUS, times=40, until=go_on)
    world.deliver(*nodes)
    await until(lambda: world.writes() >= 32)
    await asyncio.sleep(1)
    assert world.writes() == 32
    go_on.set()
    await until(lambda: all(world.cursor(node, "cmdb") for node in nodes))


async def test_a_cursor_write_is_retried_until_it_succeeds(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    """For every kind of error; the records are not sent again."""
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 1)
    kube.fail("PATCH", STATUS, server_error(), times=40)
    kube.fail("PATCH", STATUS, RuntimeError("a fault of ours"), times=2)
    world.deliver("n1")
    await until(lambda: world.cursor("n1", "cmdb") == 1)
    assert world.writes() == 43
    assert len(world.http.posts) == 1
    warnings = [one for one in caplog.records if one.__dict__["fields"].get("node") == "n1"]
    assert len(warnings) >= 8


async def test_a_cursor_whose_write_got_no_answer_is_written_once(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 1)
    kube.fail("PATCH", STATUS, unreachable(), after=True)
    world.deliver("n1")
    await until(lambda: world.cursor("n1", "cmdb") == 1)
    version = kube.version
    await asyncio.sleep(300)
    assert kube.version == version
    assert len(world.http.posts) == 1


async def test_a_cursor_does_not_overwrite_the_change_of_another_client(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 1)
    kube.change(
        inventory_path("n1"), lambda body: body["status"].update(lastHandledRequest="theirs")
    )
    world.deliver("n1")
    await until(lambda: world.cursor("n1", "cmdb") == 1)
    assert world.status("n1")["lastHandledRequest"] == "theirs"


@pytest.mark.parametrize("known", [True, False], ids=["known", "not known yet"])
async def test_a_recreated_inventory_gets_no_cursor_of_the_former(
    kube: FakeKube, known: bool
) -> None:
    """Sequences of the former inventory mean nothing in the later one."""
    world = Deliveries(kube, sink("cmdb"))
    world.http.until = asyncio.Event()
    world.put("n1", 3)
    world.deliver("n1")
    await until(lambda: world.http.posts)
    if known:
        world.remove("n1")
    else:
        kube.remove(inventory_path("n1"))
    put_inventory(kube, "n1", status={"state": "Present", "sequence": 0, "policy": ""})
    if known:
        world.take("n1")
    world.http.until.set()
    await asyncio.sleep(300)
    assert kube.objects[inventory_path("n1")]["status"].get("sinks") is None
    assert len(world.http.posts) == 1


async def test_a_deleted_inventory_is_not_created_for_a_cursor(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.http.until = asyncio.Event()
    world.put("n1", 1)
    world.deliver("n1")
    await until(lambda: world.http.posts)
    world.remove("n1")
    world.http.until.set()
    await asyncio.sleep(300)
    assert kube.objects == {}


async def test_an_outage_is_in_the_status_after_three_failures_until_it_ends(
    kube: FakeKube,
) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 1)
    failures = 0

    def answer(_: object) -> int:
        nonlocal failures
        failures += 1
        return 503 if failures < 6 else 200

    world.http.answer = answer
    world.deliver("n1")
    await until(lambda: world.error("n1", "cmdb"))
    assert failures >= 3
    assert world.error("n1", "cmdb") == "Unavailable: POST https://cmdb: 503 said"
    assert conditions(world, "n1")["Delivered"][0] == "False"
    await until(lambda: world.cursor("n1", "cmdb") == 1)
    assert world.error("n1", "cmdb") is None
    assert conditions(world, "n1")["Delivered"][0] == "True"
    assert world.writes() == 2


async def test_two_failures_are_not_in_the_status(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 1)
    world.http.answer = lambda _: 503 if len(world.http.posts) < 3 else 200
    world.deliver("n1")
    await until(lambda: world.cursor("n1", "cmdb") == 1)
    assert world.writes() == 1


async def test_a_refusal_is_in_the_status_at_once(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 1)
    world.http.answer = lambda _: 404
    world.deliver("n1")
    await until(lambda: world.error("n1", "cmdb"))
    assert world.error("n1", "cmdb") == "Refused: POST https://cmdb: 404 said"
    assert len(world.http.posts) == 1


async def test_an_outage_is_in_the_status_of_a_recreated_inventory(
    kube: FakeKube,
) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.http.answer = lambda _: 404
    for _ in range(2):
        world.put("n1", 1)
        world.deliver("n1")
        await until(lambda: world.error("n1", "cmdb"))
        world.remove("n1")


async def test_a_sink_that_is_down_does_not_hold_up_others(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("a"), sink("b"))
    world.put("n1", 1)
    world.http.answer = lambda post: 503 if post.host == "a" else 200
    world.deliver("n1")
    await until(lambda: world.cursor("n1", "b") == 1 and world.error("n1", "a"))
    assert world.cursor("n1", "a") == 0


async def test_a_request_under_way_at_shutdown_ends_and_its_cursor_is_written(
    kube: FakeKube,
) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.http.until = asyncio.Event()
    world.put("n1", 1)
    world.put("n2", 1, spec={"sinks": [sink("late").to_json()]})
    world.idle_gate.update(1)
    world.deliver("n1")
    await until(lambda: world.http.posts)
    asyncio.get_running_loop().call_later(2, world.http.until.set)
    closing = asyncio.create_task(world.delivery.close(within=10))
    await asyncio.sleep(1)
    world.deliver("n2")
    await closing
    await asyncio.sleep(60)
    assert world.cursor("n1", "cmdb") == 1
    assert [len(post.ids) for post in world.http.posts] == [1]


async def test_a_send_that_does_not_end_is_abandoned_within_the_time(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.http.until = asyncio.Event()
    world.put("n1", 1)
    world.deliver("n1")
    await until(lambda: world.http.posts)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await world.delivery.close(within=10)
    assert loop.time() - began <= 10
    assert world.writes() == 0


async def test_a_cursor_that_is_not_written_in_time_is_given_up(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 1)
    kube.fail("PATCH", STATUS, server_error(), times=1000)
    world.deliver("n1")
    await until(lambda: world.writes() > 2)
    loop = asyncio.get_running_loop()
    began = loop.time()
    caplog.clear()
    await world.delivery.close(within=10)
    assert loop.time() - began <= 10
    assert [one.levelname for one in caplog.records][-1] == "WARNING"
    writes = world.writes()
    await world.status_writer.finish(within=0)
    await asyncio.sleep(3600)
    assert world.writes() == writes


async def test_a_worker_that_waits_ends_at_once(kube: FakeKube) -> None:
    world = Deliveries(kube, sink("cmdb"))
    world.put("n1", 1)
    world.http.answer = lambda _: 404
    world.deliver("n1")
    await until(lambda: world.error("n1", "cmdb"))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await world.delivery.close(within=10)
    assert loop.time() == began


async def test_shutdown_without_a_sink_takes_no_time(kube: FakeKube) -> None:
    world = Deliveries(kube)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await world.delivery.close(within=10)
    assert loop.time() == began
