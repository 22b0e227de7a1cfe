"""Long work in turns: work on all nodes lets other tasks run in between.

Leases are renewed, probes answered and events taken by tasks of the same event loop. With 5,000
nodes, work of a quarter of a millisecond per node would hold them up for more than a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

HOLD: Final = 0.01
"""Seconds for which the tasks that take turns hold the loop, all of them together. What becomes due
in a turn runs after the next one, so that it waits up to twice as long, and for one item of each of
these tasks."""


class Turns:
    """Shares the time of one event loop among tasks with long work.

    While a task has the turn it goes on until HOLD has passed. Then all tasks that take turns do at
    most one item each before everything else that waits has run.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` in seconds."""
        self._clock = clock
        self._end = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop that will begin the next turn; None if none was asked to."""

    async def pause(self) -> None:
        """Let other tasks run, if the turn is over."""
        if self._clock() < self._end:
            return
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.call_soon(self._begin)  # runs before any task that pauses from now on
        await asyncio.sleep(0)

    async def over(self, items: Iterable[T]) -> AsyncIterator[T]:
        """The items, with a pause after each. What they come from may change meanwhile: give a copy
        of a collection that changes."""
        for item in items:
            yield item
            await self.pause()

    def _begin(self) -> None:
        self._loop = None
        self._end = self._clock() + HOLD


TURNS: Final = Turns()
"""Those of the loop in which the engine runs."""

pause = TURNS.pause
in_turns = TURNS.over
