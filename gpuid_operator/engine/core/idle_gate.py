"""Whether nodes wait for their turn, so that what is less urgent can let them go first."""

from __future__ import annotations

import asyncio
from typing import Final

PATIENCE: Final = 30.0
"""Seconds for which anything waits for nodes at most; some nodes hang for as long."""


class IdleGate:
    """The nodes that wait for a worker: a fleet at the start, hardly ever one later.

    Acknowledgements of deliveries wait for them: when 5,000 nodes are new, each of them is listed
    before the first is noted as delivered, and several sinks' notes of a node share a write.
    """

    def __init__(self) -> None:
        self._gone = asyncio.Event()
        self._gone.set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def show(self, waiting: int) -> None:
        """So many nodes wait now."""
        if not waiting:
            self._end()
        elif self._gone.is_set() and not self._closed:
            self._gone.clear()
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._end)

    async def gone(self) -> None:
        """Wait until no node waits, for `PATIENCE` at most."""
        await self._gone.wait()

    def close(self) -> None:
        """Nothing waits for nodes any more."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        self._gone.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
