"""A work queue with times: each key is queued once, and handled by one worker at a time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Hands out keys when they are due, and never the same key to two workers at once."""

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._processing: set[K] = set()
        self._again: dict[K, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many keys are due and wait for a worker."""
        return len(self._waiting)

    def add(self, key: K, delay: float = 0.0) -> None:
        """Make the key due in `delay` seconds. A time at which it is due anyway, if earlier, stays.

        A key that a worker has is handed out again after `done`, not before.
        """
        when = asyncio.get_running_loop().time() + max(delay, 0.0)
        if key in self._processing:
            self._again[key] = min(when, self._again.get(key, when))
        elif key not in self._waiting and when < self._due.get(key, float("inf")):
            self._due[key] = when
            self._count += 1
            heapq.heappush(self._heap, (when, self._count, key))
            self._advance()

    async def get(self) -> K:
        """Wait for the next key that is due. The worker calls `done` once it has handled it."""
        key = await self._ready.get()
        self._waiting.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        """The worker has handled the key."""
        self._processing.discard(key)
        when = self._again.pop(key, None)
        if when is not None:
            self.add(key, when - asyncio.get_running_loop().time())

    def _advance(self) -> None:
        """Move keys that are due to the workers, and set the timer for the next one."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._heap:
            when, _, key = self._heap[0]
            if self._due.get(key) != when:
                heapq.heappop(self._heap)  # an earlier time took its place
                continue
            if when > now:
                break
            heapq.heappop(self._heap)
            del self._due[key]
            self._waiting.add(key)
            self._ready.put_nowait(key)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._heap[0][0], self._advance) if self._heap else None
