"""Bounds how many calls the API server works on at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class InFlight:
    """At most `places` calls at once, served in order; more would only wait in the API server, and
    other clients with them.

    A call that takes longer than `longest` seconds gives its place back while it goes on: a node or
    an admission webhook that does not answer must not keep the others waiting.
    """

    def __init__(self, *, places: int, longest: float = 1.0) -> None:
        self._free = asyncio.Semaphore(places)
        self._longest = longest

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Callable[[], None]]:
        """A place for a block; calling the result gives it back before the block ends."""
        await self._free.acquire()
        taken = True

        def give_back() -> None:
            nonlocal taken
            if taken:
                taken = False
                self._free.release()

        timer = asyncio.get_running_loop().call_later(self._longest, give_back)
        try:
            yield give_back
        finally:
            timer.cancel()
            give_back()
