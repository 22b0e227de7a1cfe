"""The nodes that have something for one sink, and those that have to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator


class DueNodes:
    """A queue of nodes, each in it once, and the nodes that are blocked for a time."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        """Since when each node is due, in seconds of the event loop's clock."""
        self._filled = asyncio.Event()
        self._blocked: dict[str, asyncio.TimerHandle] = {}

    def __bool__(self) -> bool:
        return bool(self._due)

    def __iter__(self) -> Iterator[str]:
        return iter(self._due)

    def add(self, node: str) -> None:
        """Puts a node at the end, unless it is due already."""
        self._due.setdefault(node, asyncio.get_running_loop().time())
        self._filled.set()

    def remove(self, node: str) -> None:
        """Takes a node out of the queue."""
        self._due.pop(node, None)
        if not self._due:
            self._filled.clear()

    def first(self) -> str:
        """Returns the node that has been due for longest."""
        return next(iter(self._due))

    def since(self, node: str) -> float:
        """Returns since when a node is due, in seconds of the event loop's clock."""
        return self._due[node]

    async def wait(self) -> None:
        """Waits until a node is due."""
        while not self._due:  # the node may be gone before the waiter goes on
            await self._filled.wait()

    def is_blocked(self, node: str) -> bool:
        return node in self._blocked

    def block(self, node: str, seconds: float, *, then: Callable[[str], None]) -> None:
        """Takes a node out of the queue for a time; then `then` gets it."""
        self.remove(node)
        timer = asyncio.get_running_loop().call_later(seconds, self._unblock, node, then)
        self._blocked[node] = timer

    def forget(self, node: str) -> None:
        """Drops a node that is gone, blocked or not."""
        self.remove(node)
        if timer := self._blocked.pop(node, None):
            timer.cancel()

    def close(self) -> None:
        """Stops all timers."""
        for timer in self._blocked.values():
            timer.cancel()

    def _unblock(self, node: str, then: Callable[[str], None]) -> None:
        del self._blocked[node]
        then(node)
