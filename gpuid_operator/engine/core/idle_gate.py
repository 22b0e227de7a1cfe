"""A gate that is open while no node waits for a worker, so that less urgent work can go last."""

from __future__ import annotations

import asyncio
from typing import Final

PATIENCE: Final = 30.0
"""Longest time in seconds that the gate stays closed; a read that hangs takes as long."""


class IdleGate:
    """Closed while nodes wait for a worker: at the start of a large cluster, hardly ever later.

    Acknowledgements of deliveries and the labels of Nodes wait at the gate. When 5,000 nodes are
    new, the operator writes the inventory of each before it acknowledges the first delivery or
    labels the first Node, and the acknowledgements of several sinks for one node share a write.
    """

    def __init__(self) -> None:
        self._idle = asyncio.Event()
        self._idle.set()
        self._timer: asyncio.TimerHandle | None = None
        self._disabled = False

    def update(self, waiting: int) -> None:
        """Open or close the gate for this number of waiting nodes."""
        if not waiting:
            self._open()
        elif self._idle.is_set() and not self._disabled:
            self._idle.clear()
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._open)

    @property
    def is_open(self) -> bool:
        """Whether less urgent work may begin now."""
        return self._idle.is_set()

    async def wait(self) -> None:
        """Wait until the gate is open, at most PATIENCE seconds."""
        await self._idle.wait()

    def disable(self) -> None:
        """Leave the gate open from now on: the operator stops, and no node will be read."""
        self._disabled = True
        self._open()

    def _open(self) -> None:
        self._idle.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
