"""Rounds of writes: each writes what changed since the last one, and backs off from objects that
cannot be written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from gpuid_operator.engine.core.jitter import chance
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.plan.schedule import backoff

_FIRST_PAUSE: Final = timedelta(seconds=4)
_LONGEST_PAUSE: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class _Failure:
    """The failed writes of one object in a row."""

    count: int
    version: str
    """What was to be written. Another version is written at once."""
    retry_at: float
    """Seconds of the loop's clock."""


class WriteRounds:
    """Runs rounds when something changed, and when a failed write is due again.

    An object that cannot be written is retried with back-off, and delays no other object.
    """

    def __init__(self, *, quiet: float) -> None:
        """`quiet` is the time between two rounds in seconds."""
        self._quiet = quiet
        self._touched = asyncio.Event()
        self._touched.set()
        self._failures: dict[str, _Failure] = {}

    def touch(self) -> None:
        """Ask for a round: something changed."""
        self._touched.set()

    async def run(
        self,
        work: Callable[[], Awaitable[None]],
        *,
        due_in: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Run rounds until cancelled. `due_in` says in how many seconds a round is due that nobody
        asks for; None for never."""
        while True:
            await self._wait(due_in())
            self._touched.clear()
            await work()
            await asyncio.sleep(self._quiet)

    async def attempt(
        self, name: str, version: str, write: Callable[[], Awaitable[None]]
    ) -> KubeError | None:
        """Write an object, unless this version of it backs off. Returns the error of a write that
        failed."""
        loop = asyncio.get_running_loop()
        known = self._failures.get(name)
        if known is not None and known.version != version:
            known = None
        if known is not None and loop.time() < known.retry_at:
            return None
        try:
            await write()
        except KubeError as error:
            count = known.count + 1 if known else 1
            pause = backoff(count, chance=chance(), first=_FIRST_PAUSE, most=_LONGEST_PAUSE)
            retry_at = loop.time() + pause.total_seconds()
            self._failures[name] = _Failure(count, version, retry_at)
            return error
        self.settled(name)
        return None

    def settled(self, name: str) -> None:
        """There is nothing to write any more."""
        self._failures.pop(name, None)

    def keep_only(self, names: Collection[str]) -> None:
        """Forget the failures of all other objects."""
        for name in self._failures.keys() - set(names):
            del self._failures[name]

    async def _wait(self, due_in: float | None) -> None:
        retries = [failure.retry_at for failure in self._failures.values()]
        if due_in is not None:
            retries.append(asyncio.get_running_loop().time() + due_in)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(retries, default=None)):
                await self._touched.wait()
