"""The loop of one sink when the sink refuses some records and takes others."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from gpuid_operator.sinks.base import RecordsRefused
from tests.support.engines import until
from tests.support.sink_worker import Harness, refusing


async def test_the_refused_record_stands_alone() -> None:
    """Of an entry with several records, too; what is before it is taken, and all other nodes'."""
    harness = Harness({"a": [1, 1], "b": [1, 4, 1], "c": [2], "d": [1]})
    poison = "b.2.0.2"
    harness.answer = refusing(poison)
    await harness.until(lambda: len(harness.cursors) == 4)
    assert [poison] in [ids for _, ids in harness.sent]
    assert harness.cursors == {"a": 2, "b": 1, "c": 1, "d": 1}
    assert harness.errors == [("b", "RecordRefused: 422")]
    assert "b.3.0.0" not in harness.taken


async def test_a_refused_record_is_tried_again_at_the_slow_end() -> None:
    harness = Harness({"a": [1, 1], "b": [1]})
    refused: list[float] = []

    def answer(ids: list[str]) -> Exception | None:
        if "a.1.0.0" not in ids or len(refused) == 3:
            return None
        if ids == ["a.1.0.0"]:
            refused.append(asyncio.get_running_loop().time())
        return RecordsRefused("422")

    harness.answer = answer
    await harness.until(harness.is_done, step=10)
    assert all(b - a >= 300 for a, b in pairwise(refused))
    assert harness.taken == ["b.1.0.0", "a.1.0.0", "a.2.0.0"]


async def test_news_do_not_bring_a_refused_node_back_before_its_time() -> None:
    harness = Harness({"a": [1], "b": [1]})
    harness.answer = refusing("a.1.0.0")
    loop = asyncio.get_running_loop()

    def again() -> bool:
        if harness.errors:
            harness.worker.add("a")
        return loop.time() > 250

    await harness.until(again)
    assert [ids for _, ids in harness.sent].count(["a.1.0.0"]) == 1
    assert harness.cursors == {"b": 1}


async def test_a_refused_node_that_is_forgotten_does_not_come_back() -> None:
    harness = Harness({"a": [1], "b": [1]})
    harness.answer = refusing("a.1.0.0")
    loop = asyncio.get_running_loop()

    def forgets() -> bool:
        if harness.errors:
            harness.worker.forget("a")
        return loop.time() > 2000

    await harness.until(forgets, step=1)
    assert [ids for _, ids in harness.sent].count(["a.1.0.0"]) == 1


async def test_who_refuses_everything_is_not_asked_for_each_record() -> None:
    harness = Harness({f"n{number}": [1] for number in range(100)})
    harness.answer = lambda _: RecordsRefused("400")
    await harness.until(lambda: len(harness.errors) >= 100)
    began = harness.times[0]
    assert sum(time == began for time in harness.times) < 30


async def test_who_takes_some_records_is_asked_for_each() -> None:
    """However many it refuses: each of the rest arrives."""
    nodes = [f"n{number:02}" for number in range(40)]
    harness = Harness({node: [1] for node in nodes})
    harness.answer = refusing(*(f"{node}.1.0.0" for node in nodes[::2]))
    await harness.until(lambda: len(harness.errors) == 20 and len(harness.cursors) == 20)
    assert sorted(harness.cursors) == nodes[1::2]


async def test_refused_nodes_end_with_the_loop() -> None:
    harness = Harness({"a": [1]})
    harness.answer = refusing("a.1.0.0")
    harness.worker.add("a")
    task = asyncio.create_task(harness.worker.run())
    await until(lambda: harness.errors)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(2000)
    assert len(harness.sent) == 1
