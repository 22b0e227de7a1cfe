"""A queue of keys with times: each key waits once, and is handled by one worker at a time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Hands out keys when they are due; the same key never to two workers at once."""

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._handled: set[K] = set()
        self._again: dict[K, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many keys are due and wait for a worker."""
        return len(self._waiting)

    def add(self, key: K, delay: float = 0.0) -> None:
        """Let the key be handled in `delay` seconds, or when it is due already, if that is sooner.

        While a worker has it, it is handed out again only after `done`.
        """
        when = asyncio.get_running_loop().time() + max(delay, 0.0)
        if key in self._handled:
            self._again[key] = min(when, self._again.get(key, when))
        elif key not in self._waiting and when < self._due.get(key, float("inf")):
            self._due[key] = when
            self._count += 1
            heapq.heappush(self._heap, (when, self._count, key))
            self._advance()

    def discard(self, key: K) -> None:
        """Forget when the key is due; what waits for a worker already is still handed out."""
        self._due.pop(key, None)
        self._again.pop(key, None)

    async def get(self) -> K:
        """The next key that is due; its worker calls `done` afterwards."""
        key = await self._ready.get()
        self._waiting.discard(key)
        self._handled.add(key)
        return key

    def done(self, key: K) -> None:
        """The worker is through with the key."""
        self._handled.discard(key)
        when = self._again.pop(key, None)
        if when is not None:
            self.add(key, when - asyncio.get_running_loop().time())

    def _advance(self) -> None:
        """Make ready what is due, and wake again for the next."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._heap:
            when, _, key = self._heap[0]
            if self._due.get(key) != when:
                heapq.heappop(self._heap)  # it was brought forward, or is not wanted any more
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
