"""Tasks that nobody waits for end by themselves, or are ended."""

from __future__ import annotations

import asyncio

from gpuid_operator.engine.background import Background


async def test_what_they_begin_is_waited_for_too() -> None:
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


async def test_what_does_not_end_is_ended() -> None:
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


async def test_with_nothing_to_do_or_no_time() -> None:
    background = Background()
    assert await background.finish(within=0)
    background.start(asyncio.sleep(600))
    assert not await background.finish(within=-1)
