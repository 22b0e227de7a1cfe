"""Long work lets other tasks run in between."""

from __future__ import annotations

import asyncio

import pytest

from gpuid_operator.engine.core.turns import HOLD, Turns

ITEMS = 1000
PER_ITEM = HOLD / 10


class Work:
    """Works through items, and notes at which item something else ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns = Turns(clock=lambda: self.now)
        self.done = 0
        self.seen: list[int] = []

    async def run(self) -> None:
        async for _ in self.turns.over(range(ITEMS)):
            self.done += 1
            self.now += PER_ITEM

    async def look(self) -> None:
        """Something else that wants to run as often as it can."""
        while self.done < ITEMS:
            self.seen.append(self.done)
            await asyncio.sleep(0)


@pytest.fixture
def work() -> Work:
    return Work()


async def test_one_task_lets_others_run_after_each_turn(work: Work) -> None:
    work.now = 1.0
    await asyncio.gather(work.run(), work.look())
    between = [after - before for before, after in zip(work.seen, work.seen[1:], strict=False)]
    assert 8 <= max(between) <= 12
    assert len(work.seen) >= ITEMS / 12


async def test_several_tasks_share_a_turn(work: Work) -> None:
    """Each does one item of its own at most when the turn is over."""
    tasks = 16
    work.now = 1.0
    looks = asyncio.create_task(work.look())
    await asyncio.gather(*[work.run() for _ in range(tasks)])
    await looks
    between = [after - before for before, after in zip(work.seen, work.seen[1:], strict=False)]
    assert max(between) <= 12 + tasks


async def test_short_work_is_not_interrupted(work: Work) -> None:
    await work.turns.pause()
    await asyncio.sleep(0)
    order: list[str] = []

    async def other() -> None:
        order.append("other")

    async def short() -> None:
        async for _ in work.turns.over(range(5)):
            order.append("item")
            work.now += PER_ITEM

    await asyncio.gather(short(), other())
    assert order == ["item"] * 5 + ["other"]


def test_another_loop_begins_turns_of_its_own(work: Work) -> None:
    """The first loop may have closed before it began the turn that it was asked for."""
    for _ in range(2):
        work.now += 1.0
        asyncio.run(work.turns.pause())
        work.done = 0
        asyncio.run(work.run())
        assert work.done == ITEMS
