"""What waits for nodes goes on when none waits, after a while, and at the end."""

from __future__ import annotations

import asyncio

from gpuid_operator.engine.backlog import PATIENCE, Backlog


async def test_it_is_waited_for() -> None:
    backlog = Backlog()
    await backlog.gone()
    backlog.show(2)
    waiting = asyncio.create_task(backlog.gone())
    await asyncio.sleep(0)
    backlog.show(1)
    await asyncio.sleep(0)
    assert not waiting.done()
    backlog.show(0)
    await waiting


async def test_not_for_longer_than_patience_lasts() -> None:
    backlog = Backlog()
    loop = asyncio.get_running_loop()
    backlog.show(1)
    await backlog.gone()
    assert loop.time() == PATIENCE
    # Those who come later have patience of their own.
    backlog.show(1)
    await backlog.gone()
    assert loop.time() == 2 * PATIENCE


async def test_not_at_the_end() -> None:
    backlog = Backlog()
    backlog.show(1)
    waiting = asyncio.create_task(backlog.gone())
    await asyncio.sleep(0)
    backlog.close()
    await waiting
    backlog.show(1)
    await backlog.gone()
