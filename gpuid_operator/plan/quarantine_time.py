"""The time by which quarantines end.

A wrong clock must not release a part, take a taint off, or bring back what has ended.

    the clock of this process                     | the time
    ----------------------------------------------|--------------------------------------------
    is within CLOCK_SKEW of the API server's      | its own
    differs from it by more                       | the API server's
    and the API server's is not known             | its own

Two right times differ by twice CLOCK_SKEW at most. A time that is behind the last one by no more
than that is the last one again: a quarantine that ended stays at its end.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.plan.schedule import CLOCK_SKEW, right_time

_STEP_BACK: Final = 2 * CLOCK_SKEW


def quarantine_time(
    now: datetime, *, server: datetime | None, last: datetime | None = None
) -> datetime:
    """The time by the table above. `server` is the API server's, `last` the last time by which
    quarantines ended."""
    time = right_time(now, server=server)
    if last is not None and timedelta(0) < last - time <= _STEP_BACK:
        return last
    return time
