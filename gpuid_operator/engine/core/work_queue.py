"""A work queue with times: each key is queued once, and handled by one worker at a time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


def _equal(_: object) -> int:
    return 0


class WorkQueue(Generic[K]):
    """Hands out keys when they are due, and never the same key to two workers at once.

    Keys that wait for a worker are handed out by rank, the lowest first, and within a rank in the
    order in which they became due.
    """

    def __init__(self, rank: Callable[[K], int] = _equal) -> None:
        """`rank` is asked when a key becomes due, and when a key that waits is added again."""
        self._rank = rank
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        self._ready: asyncio.PriorityQueue[tuple[int, int, K]] = asyncio.PriorityQueue()
        self._waiting: dict[K, tuple[int, int]] = {}
        """The place of each key that waits: its rank, and its number in the order of arrival."""
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
        elif key in self._waiting:
            self._promote(key)
        elif when < self._due.get(key, float("inf")):
            self._due[key] = when
            self._count += 1
            heapq.heappush(self._heap, (when, self._count, key))
            self._advance()

    async def get(self) -> K:
        """Wait for the next key that is due. The worker calls `done` once it has handled it."""
        while True:
            rank, number, key = await self._ready.get()
            if self._waiting.get(key) == (rank, number):  # else it was promoted
                del self._waiting[key]
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
            self._wait(key, self._rank(key))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._heap[0][0], self._advance) if self._heap else None

    def _promote(self, key: K) -> None:
        """Give a key that waits a better place if its rank is better by now."""
        rank = self._rank(key)
        if rank < self._waiting[key][0]:
            self._wait(key, rank)

    def _wait(self, key: K, rank: int) -> None:
        self._count += 1
        self._waiting[key] = rank, self._count
        self._ready.put_nowait((rank, self._count, key))
