"""The API server's clock, as its responses show it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime


class ServerClock:
    """Goes on from the header `Date` of the newest response. It is never ahead of the server: a
    Date has whole seconds, and was written before it arrived."""

    def __init__(self) -> None:
        self._date: str | None = None
        self._time: datetime | None = None
        self._arrived = 0.0
        """Seconds of the loop's clock, which nobody sets."""

    def take(self, date: str | None) -> None:
        """A response with this Date arrived now."""
        self._arrived = asyncio.get_running_loop().time()
        if date != self._date:
            self._date, self._time = date, _parse(date)

    def now(self) -> datetime | None:
        """The time in UTC; None where the server does not say."""
        if self._time is None:
            return None
        return self._time + timedelta(seconds=asyncio.get_running_loop().time() - self._arrived)


def _parse(date: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(date or "").astimezone(UTC)
    except ValueError:
        return None
