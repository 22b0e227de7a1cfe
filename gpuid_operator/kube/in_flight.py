"""Bounds how many calls the API server works on at the same time."""

from __future__ import annotations

import asyncio
from typing import Final, Self

_LONGEST: Final = 1.0


class InFlight:
    """At most `places` calls at once, served in order; more would only wait in the API server, and
    other clients with them.

    A call that takes longer than `longest` seconds gives its place back while it goes on: a node or
    an admission webhook that does not answer must not keep the others waiting.
    """

    def __init__(self, *, places: int, longest: float = _LONGEST) -> None:
        self._free = asyncio.Semaphore(places)
        self._longest = longest

    def place(self) -> Place:
        """A place for the block of an `async with`, which waits until there is one."""
        return Place(self._free, self._longest)


class Place:
    """The place of one call. It is given back at the end of the block, if not before."""

    __slots__ = ("_free", "_longest", "_timer")

    def __init__(self, free: asyncio.Semaphore, longest: float) -> None:
        self._free = free
        self._longest = longest
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._free.acquire()
        self._timer = asyncio.get_running_loop().call_later(self._longest, self.give_back)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        """The call needs its place no longer. May be called more than once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._free.release()
