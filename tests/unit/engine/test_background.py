"""Background tasks end by themselves, are cancelled, or run until the process ends."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from gpuid_operator.engine.core.background import Background, run_forever


async def test_finish_waits_for_tasks_that_tasks_start() -> None:
    background, done = Background(), []

    async def follow() -> None:
        await asyncio.sleep(0)
        done.append("second")

    async def begin() -> None:
        await asyncio.sleep(0)
        done.append("first")
        background.start(follow())

    background.start(begin())
    assert await background.finish(within=30)
    assert done == ["first", "second"]


async def test_finish_cancels_what_takes_too_long() -> None:
    background = Background()
    ended = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    background.start(hang())
    assert not await background.finish(within=0.01)
    assert ended.is_set()


async def test_finish_without_tasks_or_time() -> None:
    background = Background()
    assert await background.finish(within=0)
    background.start(asyncio.sleep(600))
    assert not await background.finish(within=-1)


async def test_a_failed_loop_restarts(caplog: pytest.LogCaptureFixture) -> None:
    times: list[float] = []
    turns = iter([ValueError("one"), KeyError("two"), None])

    async def loop() -> None:
        times.append(asyncio.get_running_loop().time())
        if error := next(turns):
            raise error

    await run_forever(loop)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert 0.5 <= pauses[0] <= 1 <= pauses[1] <= 2
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        "one",
        "'two'",
    ]


async def test_the_pauses_between_failures_are_a_minute_at_most() -> None:
    times: list[float] = []

    async def loop() -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) < 12:
            raise ValueError

    await run_forever(loop)
    assert 30 <= times[-1] - times[-2] <= 60


async def test_a_loop_can_be_cancelled() -> None:
    async def loop() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(run_forever(loop))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
