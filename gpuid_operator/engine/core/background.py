"""Tasks that nobody waits for: what ends by itself, and what is to go on for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Final

from gpuid_operator.plan.schedule import backoff
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_LONGEST_PAUSE: Final = timedelta(minutes=1)

Loop = Callable[[], Awaitable[None]]
"""What is to go on for ever, or until it is done."""


async def run_forever(loop: Loop) -> None:
    """Work until it is done. A fault that nobody foresaw is logged, and the work is begun anew
    after a pause: without it the rest would go on, and nobody would know what is missing."""
    failures = 0
    while True:
        try:
            await loop()
        except Exception:
            failures += 1
            name = getattr(loop, "__qualname__", repr(loop))
            _log.exception("a loop stumbled; it is begun anew", loop=name)
        else:
            return
        chance = random.random()  # noqa: S311 - jitter, no secret
        await asyncio.sleep(backoff(failures, chance=chance, most=_LONGEST_PAUSE).total_seconds())


class Background:
    """Runs tasks beside whoever began them. At the end none is left behind: it would go on with a
    client that is closed, or beside whatever is begun next."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, *, within: float) -> bool:
        """Wait for all tasks, also for those that they begin, but no longer than so many seconds;
        then end what is left. Whether nothing was left."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        while self._tasks and loop.time() < until:
            await asyncio.wait(self._tasks, timeout=until - loop.time())
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return not left
