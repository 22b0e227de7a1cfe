"""Background tasks: some end by themselves, others run for as long as the process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Final

from gpuid_operator.engine.core.jitter import chance
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_MAX_BACKOFF: Final = timedelta(minutes=1)

Loop = Callable[[], Awaitable[None]]
"""Work that goes on until it is cancelled or done."""


async def run_forever(loop: Loop) -> None:
    """Run a loop until it returns, and restart it after an unexpected error.

    Each restart waits longer, up to a minute. If a loop ended with its error, the others would
    continue without it, and nobody would notice what is missing.
    """
    failures = 0
    while True:
        try:
            await loop()
        except Exception:
            failures += 1
            name = getattr(loop, "__qualname__", repr(loop))
            _log.exception("background task failed; restarting", loop=name)
        else:
            return
        await asyncio.sleep(backoff(failures, chance=chance(), most=_MAX_BACKOFF).total_seconds())


class Background:
    """Tasks that nothing awaits until `finish`, which leaves none behind: a task that outlives its
    owner would use a client that is closed, or run beside its successor."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, *, within: float) -> bool:
        """Wait for all tasks, including those that they start, for at most `within` seconds, then
        cancel the rest. Returns whether all tasks finished in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        while self._tasks and loop.time() < until:
            await asyncio.wait(self._tasks, timeout=until - loop.time())
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return not left
