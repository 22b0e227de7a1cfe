"""A clock that does not wait: where an event loop would sleep until a time, that time has come."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

START: Final = datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)
"""What `now` says at second 0 of a loop."""

_STUCK: Final = 5
"""Waits of a real second without a timer, a callback or a thread, after which a test is stuck."""


class _JumpingSelector(selectors.DefaultSelector):
    """Advances the clock to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._idle = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            # No timer: only a thread or a socket can go on, or nothing ever will.
            ready = super().select(1.0)
            self._idle = 0 if ready else self._idle + 1
            if self._idle == _STUCK:
                raise RuntimeError("the test is stuck: every task waits and no timer is set")
            return ready
        self._idle = 0
        ready = super().select(0)
        if not ready:
            self.now += max(timeout, 0.0)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop under that clock. `now` is the wall clock that goes with it."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def now() -> datetime:
    """The wall clock of the running loop: START plus the seconds that it has jumped."""
    return START + timedelta(seconds=asyncio.get_running_loop().time())


def run(work: Awaitable[None]) -> None:
    """Run `work` to its end in a loop of its own, for tests that are not coroutines."""

    async def main() -> None:
        await work

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())
