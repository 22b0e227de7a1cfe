"""Times that this process remembers, unmoved when somebody sets the clock.

Statuses have times of day. A back-off, or the ten seconds until the removal of a GPU is confirmed,
must take as long as it says: they are remembered as times of the loop's clock, which nobody sets,
and `loop_start` converts between the two.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta


def loop_start(now: datetime) -> datetime:
    """The time of day at which the loop's clock said 0, according to the clock as it is now."""
    return now - timedelta(seconds=asyncio.get_running_loop().time())
