"""The queue hands out each key when it is due, to one worker at a time."""

from __future__ import annotations

import asyncio

from gpuid_operator.engine.core.work_queue import WorkQueue


def now() -> float:
    return asyncio.get_running_loop().time()


async def nothing_comes(queue: WorkQueue[str]) -> bool:
    """Whether an hour passes without a key."""
    try:
        async with asyncio.timeout(3600):
            await queue.get()
    except TimeoutError:
        return True
    return False


async def test_keys_come_in_the_order_of_their_times() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key, delay in (("c", 30), ("a", 0), ("b", 10)):
        queue.add(key, delay)
    came = []
    for _ in range(3):
        key = await queue.get()
        came.append((key, now()))
        queue.done(key)
    assert came == [("a", 0), ("b", 10), ("c", 30)]


async def test_the_earliest_of_two_times_counts() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a", 60)
    queue.add("a", 10)
    queue.add("a", 300)
    assert await queue.get() == "a"
    assert now() == 10
    queue.done("a")
    assert await nothing_comes(queue)


async def test_a_key_waits_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("a")
    assert len(queue) == 1
    queue.done(await queue.get())
    assert len(queue) == 0
    assert await nothing_comes(queue)


async def test_no_two_workers_get_the_same_key() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add("a")
    assert await nothing_comes(queue)
    queue.done("a")
    assert await queue.get() == "a"


async def test_what_is_added_while_a_worker_has_the_key_keeps_the_earliest_time() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add("a", 60)
    queue.add("a", 20)
    queue.add("a", 90)
    await asyncio.sleep(5)
    queue.done("a")
    assert await queue.get() == "a"
    assert now() == 20


async def test_a_time_that_passed_while_a_worker_had_the_key_is_due_at_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add("a", 20)
    await asyncio.sleep(60)
    queue.done("a")
    assert await queue.get() == "a"
    assert now() == 60


async def test_every_worker_gets_a_key_of_its_own() -> None:
    queue: WorkQueue[str] = WorkQueue()
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    for key in "abc":
        queue.add(key, 1)
    assert sorted(await asyncio.gather(*workers)) == ["a", "b", "c"]


async def test_the_lowest_rank_comes_first_and_the_oldest_of_equals() -> None:
    queue: WorkQueue[str] = WorkQueue(lambda key: int(key[0]))
    for key in ("1a", "0a", "1b", "0b"):
        queue.add(key)
    assert [await queue.get() for _ in range(4)] == ["0a", "0b", "1a", "1b"]


async def test_a_key_that_waits_moves_up_when_its_rank_falls() -> None:
    ranks = {"a": 1, "b": 1}
    queue: WorkQueue[str] = WorkQueue(lambda key: ranks[key])
    queue.add("a")
    queue.add("b")
    ranks["b"] = 0
    queue.add("b")
    assert len(queue) == 2
    assert [await queue.get() for _ in range(2)] == ["b", "a"]
    queue.done("b")
    assert await nothing_comes(queue)


async def test_a_key_that_moved_up_comes_once_again_when_it_is_added_again() -> None:
    ranks = {"a": 1}
    queue: WorkQueue[str] = WorkQueue(lambda key: ranks[key])
    queue.add("a")
    ranks["a"] = 0
    queue.add("a")
    queue.done(await queue.get())
    queue.add("a")
    queue.done(await queue.get())
    assert await nothing_comes(queue)
