"""When a sink that failed is tried again, and when an error reaches the log and the status.

error                 | next attempt                            | in status     | in the log
----------------------|-----------------------------------------|---------------|------------------
sink is unavailable   | full jitter from 1 s to longest pause   | from the third| 1st, 10th, 20th …
sink refuses          | half to all of the longest pause        | at once       | each time
sink refuses a record | likewise, but for the record's node only| at once       | each time

A Retry-After of the sink makes each pause longer, up to 6 hours.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from gpuid_operator.plan.schedule import full_jitter

FIRST_PAUSE: Final = timedelta(seconds=1)
LONGEST_RETRY_AFTER: Final = timedelta(hours=6)
REPORTED_AFTER: Final = 3
"""Failures in a row before an outage is written to the status of every node that waits."""
LOGGED_EVERY: Final = 10
REFUSED_ALONE: Final = 8
"""Refused single entries, without one that is accepted, before the sink counts as refusing all."""


def retry_pause(
    failures: int, *, chance: float, longest: timedelta, retry_after: float | None = None
) -> timedelta:
    """Pause after the given number of failures in a row (at least 1) of an unavailable sink.

    `chance` is in [0, 1); `retry_after` is in seconds.
    """
    pause = full_jitter(failures, chance=chance, first=FIRST_PAUSE, most=longest)
    return max(pause, _retry_after(retry_after))


def refusal_pause(
    *, chance: float, longest: timedelta, retry_after: float | None = None
) -> timedelta:
    """Pause after a refusal, which lasts until somebody changes something.

    `chance` is in [0, 1); `retry_after` is in seconds.
    """
    return max(longest * (0.5 + chance / 2), _retry_after(retry_after))


def is_reported(failures: int, *, refused: bool) -> bool:
    """Whether the status of the nodes that wait gets the error."""
    return refused or failures >= REPORTED_AFTER


def is_logged(failures: int, *, refused: bool) -> bool:
    """Whether the log gets the error."""
    return refused or failures == 1 or failures % LOGGED_EVERY == 0


def _retry_after(seconds: float | None) -> timedelta:
    return timedelta(seconds=min(seconds or 0.0, LONGEST_RETRY_AFTER.total_seconds()))
