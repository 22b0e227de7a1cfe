"""A token bucket that serves callers in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class TokenBucket:
    """At most `burst` requests at once and `qps` per second in the long run.

    Implements the generic cell rate algorithm: the state is the time at which the bucket will be
    full again. Each caller gets its time slot when it asks, so that no caller overtakes another.
    """

    def __init__(
        self,
        *,
        qps: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._interval = 1.0 / qps
        self._slack = self._interval * (max(burst, 1) - 1)
        self._full_at = 0.0
        self._clock = clock
        self._sleep = sleep

    async def acquire(self) -> None:
        """Wait for this caller's turn."""
        now = self._clock()
        full_at = max(now, self._full_at)
        self._full_at = full_at + self._interval
        wait = full_at - self._slack - now
        if wait > 0.0:
            try:
                await self._sleep(wait)
            except asyncio.CancelledError:
                self._full_at -= self._interval
                raise
