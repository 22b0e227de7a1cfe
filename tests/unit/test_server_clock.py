"""The API server's clock between its responses."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from gpuid_operator.kube.server_clock import ServerClock
from tests.support import clock

DATE = "Sun, 07 Jun 2026 10:30:45 GMT"
TIME = datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)


def test_it_goes_on_from_the_newest_date() -> None:
    async def play() -> None:
        server = ServerClock()
        assert server.now() is None
        server.take(DATE)
        assert server.now() == TIME
        await asyncio.sleep(90)
        assert server.now() == TIME + timedelta(seconds=90)
        server.take(DATE.replace(":30:", ":32:"))
        assert server.now() == TIME + timedelta(minutes=2)
        await asyncio.sleep(1)
        server.take(DATE.replace(":30:", ":32:"))
        assert server.now() == TIME + timedelta(minutes=2)
        for date in ("yesterday", None):
            server.take(date)
            assert server.now() is None

    clock.run(play())
