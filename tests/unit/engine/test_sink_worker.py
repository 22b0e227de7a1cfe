"""The loop of one sink: batches, results, and how the loop ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gpuid_operator.api.record import Record
from gpuid_operator.engine.delivery.outbox_entry import OutboxEntry, Position
from gpuid_operator.sinks.base import Unavailable
from tests.support.engines import until
from tests.support.sink_worker import Harness, failing


async def test_a_batch_spans_nodes_up_to_its_size() -> None:
    harness = Harness({"a": [1, 1, 1], "b": [3], "c": [1]}, max_records=4)
    await harness.until(harness.is_done)
    assert harness.taken == harness.ids("a", "b", "c")
    assert [len(ids) for _, ids in harness.sent] == [3, 4]


async def test_an_entry_larger_than_a_batch_is_sent_as_a_whole() -> None:
    harness = Harness({"a": [1, 9]}, max_records=4)
    await harness.until(harness.is_done)
    assert [len(ids) for _, ids in harness.sent] == [1, 9]


async def test_a_full_batch_does_not_wait_for_others() -> None:
    harness = Harness({"a": [2, 2], "b": [1]}, max_records=2)
    await harness.until(harness.is_done)
    assert harness.times == [0.0, 0.0, 1.0]


async def test_a_batch_that_is_not_full_waits_once_for_others_to_join() -> None:
    harness = Harness({"a": [1]})
    loop = asyncio.get_running_loop()
    loop.call_later(0.9, harness.join, "b", [1])
    await harness.until(lambda: len(harness.cursors) == 2)
    assert harness.sent == [(1.0, ["a.1.0.0", "b.1.0.0"])]


async def test_a_node_that_is_due_and_gone_at_once_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = Harness({})
    loop = asyncio.get_running_loop()

    def comes_and_goes() -> None:
        harness.join("a", [1])
        harness.worker.forget("a")

    loop.call_later(0.5, comes_and_goes)
    loop.call_later(0.7, harness.join, "b", [1])
    await harness.until(lambda: "b" in harness.cursors)
    assert harness.taken == ["b.1.0.0"]
    assert not caplog.records


async def test_a_node_whose_entries_filled_a_batch_does_not_hasten_the_next_one() -> None:
    harness = Harness({"a": [2]}, max_records=2)
    send = harness.send

    async def slow(records: Sequence[Record]) -> None:
        await send(records)
        if "b" not in harness.entries:
            await asyncio.sleep(5)
            harness.join("b", [1])

    harness.send = slow  # type: ignore[method-assign]
    await harness.until(lambda: len(harness.cursors) == 2)
    assert harness.times == pytest.approx([0.0, 6.0])


async def test_what_did_not_fit_does_not_wait_again() -> None:
    harness = Harness({"a": [2]}, max_records=3)
    loop = asyncio.get_running_loop()
    loop.call_later(0.5, harness.join, "b", [2])
    await harness.until(lambda: len(harness.cursors) == 2)
    assert harness.sent == [(1.0, ["a.1.0.0", "a.1.0.1"]), (1.5, ["b.1.0.0", "b.1.0.1"])]


async def test_later_entries_follow_the_last_one_sent() -> None:
    """Also while the cursor is not written yet."""
    harness = Harness({"a": [1]})
    write = harness.delivered
    harness.delivered = lambda node, position, *, written: None  # type: ignore[method-assign]

    def grows() -> bool:
        if len(harness.sent) == 1 and len(harness.entries["a"]) == 1:
            harness.entries["a"] = [1, 2]
            harness.delivered = write  # type: ignore[method-assign]
            harness.worker.add("a")
        return harness.is_done()

    await harness.until(grows)
    assert [ids for _, ids in harness.sent] == [["a.1.0.0"], ["a.2.0.0", "a.2.0.1"]]


async def test_deliveries_are_counted() -> None:
    harness = Harness({"a": [1, 2]})
    harness.answer = failing([Unavailable("down")])
    await harness.until(harness.is_done)
    assert harness.count("gpuid_records_delivered_total", sink="cmdb") == 3
    assert harness.count("gpuid_delivery_failures_total", sink="cmdb") == 1
    assert harness.count("gpuid_delivery_seconds_count", sink="cmdb") == 1
    assert "gpuid_export_success_total{" not in harness.metrics.render()[1].decode()


async def test_exports_of_the_environments_sink_are_counted_by_node_and_pod() -> None:
    harness = Harness({"a": [1, 2], "b": [1]}, builtin=True)
    harness.answer = failing([Unavailable("down"), Unavailable("down")])
    await harness.until(harness.is_done)
    lines = harness.metrics.render()[1].decode().splitlines()
    for node in ("a", "b"):
        assert f'gpuid_export_success_total{{node="{node}",pod="pod"}} 1' in lines
        assert f'gpuid_export_failure_total{{node="{node}",pod="pod"}} 2' in lines


async def test_a_node_whose_entries_cannot_be_read_does_not_hold_up_others() -> None:
    harness = Harness({"a": [1], "b": [1]})
    list_entries = harness.list_entries

    def read(node: str, *, after: Position | None) -> list[OutboxEntry]:
        if node == "a":
            raise ValueError("not a status")
        return list_entries(node, after=after)

    harness.list_entries = read  # type: ignore[method-assign]
    await harness.until(lambda: harness.cursors == {"b": 1})


async def test_an_unexpected_error_does_not_end_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = Harness({"a": [1]})
    faults = iter([RuntimeError("a fault of ours")])

    def serves(entry: OutboxEntry) -> bool:
        for fault in faults:
            raise fault
        return True

    harness.serves = serves  # type: ignore[method-assign]
    await harness.until(harness.is_done)
    assert harness.taken == ["a.1.0.0"]
    assert any(one.exc_info for one in caplog.records)


async def test_dropped_entries_are_not_sent() -> None:
    harness = Harness({"a": [1, 1, 1], "b": [1]})
    harness.answer = failing([Unavailable("down")] * 2)
    harness.during[2] = lambda: harness.worker.retain("a", {3})
    await harness.until(harness.is_done)
    assert [len(ids) for _, ids in harness.sent] == [4, 4, 2]
    assert harness.taken == ["a.3.0.0", "b.1.0.0"]


async def test_a_node_that_left_the_sink_is_dropped_from_the_batch() -> None:
    harness = Harness({"a": [1], "b": [1]})
    harness.answer = failing([Unavailable("down")] * 2)
    harness.during[2] = lambda: harness.served.discard("a")
    await harness.until(lambda: "b" in harness.cursors)
    assert harness.taken == ["b.1.0.0"]


async def test_nothing_is_sent_again_when_all_nodes_left_the_sink() -> None:
    harness = Harness({"a": [1]})
    harness.answer = failing([Unavailable("down")])
    loop = asyncio.get_running_loop()
    harness.during[1] = lambda: harness.served.discard("a")
    await harness.until(lambda: loop.time() > 100)
    assert len(harness.sent) == 1


async def test_a_forgotten_node_gets_nothing() -> None:
    """Neither entries of the batch, nor those that wait."""
    harness = Harness({"a": [1], "b": [1], "c": [2]}, max_records=2)
    harness.answer = failing([Unavailable("down")])

    def forget() -> None:
        harness.worker.forget("b")
        harness.worker.forget("c")

    harness.during[1] = forget
    loop = asyncio.get_running_loop()
    await harness.until(lambda: loop.time() > 100, step=10)
    assert [ids for _, ids in harness.sent] == [["a.1.0.0", "b.1.0.0"], ["a.1.0.0"]]


async def test_a_recreated_inventory_starts_at_its_first_entry() -> None:
    harness = Harness({"a": [1, 1]})

    def recreated() -> bool:
        if harness.is_done() and len(harness.sent) == 1:
            harness.worker.forget("a")
            harness.cursors.clear()
            harness.worker.add("a")
        return len(harness.sent) == 2

    await harness.until(recreated)
    assert harness.taken == harness.ids("a") * 2


class Slow(Harness):
    """Its sink answers once `go_on` is set."""

    def __init__(self, entries: dict[str, list[int]]) -> None:
        super().__init__(entries)
        self.go_on = asyncio.Event()
        self.asked = asyncio.Event()

    async def send(self, records: Sequence[Record]) -> None:
        self.asked.set()
        await self.go_on.wait()
        await super().send(records)


async def test_a_request_under_way_ends_before_the_loop() -> None:
    harness = Slow({"a": [1]})
    harness.worker.add("a")
    task = asyncio.create_task(harness.worker.run())
    await harness.asked.wait()
    assert harness.worker.stop()
    harness.go_on.set()
    await task
    assert harness.is_done()
    assert harness.closed
    assert not harness.worker.stop()


async def test_a_request_that_fails_after_the_stop_is_not_retried() -> None:
    harness = Slow({"a": [1]})
    harness.answer = failing([Unavailable("down")])
    harness.worker.add("a")
    task = asyncio.create_task(harness.worker.run())
    await harness.asked.wait()
    assert harness.worker.stop()
    harness.go_on.set()
    await task
    assert (len(harness.sent), harness.cursors, harness.errors) == (1, {}, [])
    assert harness.times == [asyncio.get_running_loop().time()]


async def test_a_loop_that_waits_has_no_request_to_wait_for() -> None:
    harness = Harness({"a": [1]})
    harness.worker.add("a")
    task = asyncio.create_task(harness.worker.run())
    await until(harness.is_done)
    assert not harness.worker.stop()
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert harness.closed
