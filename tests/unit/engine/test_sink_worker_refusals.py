"""The loop of one sink when the sink refuses some records and takes others."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import pytest

from gpuid_operator.sinks.base import RecordsRefused, Unavailable
from tests.support.sink_worker import Harness, failing, refusing


async def test_the_refused_record_is_isolated() -> None:
    """Also within an entry of several records. The sink gets all records before it, and all records
    of other nodes."""
    harness = Harness({"a": [1, 1], "b": [1, 4, 1], "c": [2], "d": [1]})
    poison = "b.2.0.2"
    harness.answer = refusing(poison)
    await harness.until(lambda: len(harness.cursors) == 4)
    assert [poison] in [ids for _, ids in harness.sent]
    assert harness.cursors == {"a": 2, "b": 1, "c": 1, "d": 1}
    assert harness.errors == [("b", "RecordRefused: 422")]
    assert "b.3.0.0" not in harness.taken


async def test_a_refused_record_is_retried_after_five_to_ten_minutes() -> None:
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


@pytest.mark.parametrize(
    ("answer", "cursors"),
    [(None, {"a": 1, "b": 1}), (RecordsRefused("422"), {"b": 1})],
    ids=["taken", "refused"],
)
async def test_an_outage_within_a_bisected_batch_leaves_only_the_rest(
    answer: Exception | None, cursors: dict[str, int]
) -> None:
    harness = Harness({"a": [1], "b": [1]})
    harness.answer = failing([RecordsRefused("422"), answer, Unavailable("down")])
    await harness.until(lambda: harness.cursors == cursors)
    both, a, b = [["a.1.0.0", "b.1.0.0"], ["a.1.0.0"], ["b.1.0.0"]]
    assert [ids for _, ids in harness.sent] == [both, a, b, b]


async def test_later_entries_wait_behind_a_refused_one() -> None:
    harness = Harness({"a": [1, 1], "b": [1]}, max_records=1)
    harness.answer = refusing("a.1.0.0")
    loop = asyncio.get_running_loop()
    await harness.until(lambda: loop.time() > 250)
    assert [ids for _, ids in harness.sent] == [["a.1.0.0"], ["b.1.0.0"]]


async def test_new_entries_do_not_end_the_pause_of_a_refused_node() -> None:
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


async def test_a_refused_node_that_is_forgotten_does_not_come_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = Harness({"a": [1], "b": [1]})
    harness.answer = refusing("a.1.0.0")
    loop = asyncio.get_running_loop()

    def forgets() -> bool:
        if harness.errors:
            harness.worker.forget("a")
        return loop.time() > 2000

    await harness.until(forgets, step=1)
    assert not [one for one in caplog.records if one.name == "asyncio"]
    assert [ids for _, ids in harness.sent].count(["a.1.0.0"]) == 1


async def test_a_sink_that_refuses_everything_gets_few_requests() -> None:
    """At each attempt: it is not asked for every single record."""
    harness = Harness({f"n{number}": [1] for number in range(100)})
    harness.answer = lambda _: RecordsRefused("400")
    await harness.until(lambda: len(harness.times) > 60, step=10)
    attempts = Counter(harness.times)
    assert len(attempts) > 1
    assert max(attempts.values()) < 30


async def test_a_sink_that_accepts_some_records_gets_each_of_them() -> None:
    """However many it refuses."""
    nodes = [f"n{number:02}" for number in range(40)]
    harness = Harness({node: [1] for node in nodes})
    harness.answer = refusing(*(f"{node}.1.0.0" for node in nodes[::2]))
    await harness.until(lambda: len(harness.errors) == 20 and len(harness.cursors) == 20)
    assert sorted(harness.cursors) == nodes[1::2]
