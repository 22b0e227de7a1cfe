"""When a node is read: the truth table of what makes a read due, and the back-off.

event                                        | due
---------------------------------------------|---------------------------------------------
target container under a containerID not read| at once
requestedAt has a token not handled          | at once; after a time-out, when the back-off ends
the last read failed                         | when the back-off ends
a GPU's removal waits for a second read      | 10 s after the first
readInterval has passed                      | then, spread by up to a tenth of the interval
suspended, or no target pod                  | never
"""

from __future__ import annotations

import zlib
from datetime import datetime, timedelta
from typing import Final

BACKOFF_FIRST: Final = timedelta(seconds=1)
BACKOFF_MAX: Final = timedelta(minutes=5)
JITTER: Final = 0.1
"""Part of the read interval over which the reads of a fleet are spread."""


def backoff(
    failures: int,
    *,
    chance: float,
    first: timedelta = BACKOFF_FIRST,
    most: timedelta = BACKOFF_MAX,
) -> timedelta:
    """The wait after the given number of failures in a row (at least 1).

    It doubles from `first` to `most`; `chance` in [0, 1) spreads it over the upper half, so that
    nodes that failed together do not come back together.
    """
    # 2**31 seconds is beyond any bound; a larger exponent would only overflow.
    ceiling = min(most, first * 2 ** min(failures - 1, 31))
    return ceiling * (0.5 + chance / 2)


def full_jitter(failures: int, *, chance: float, first: timedelta, most: timedelta) -> timedelta:
    """The wait after the given number of failures in a row, anywhere between nothing and the
    doubling bound: for senders that share one receiver."""
    return min(most, first * 2 ** min(failures - 1, 31)) * chance


def next_interval_read(last: datetime, interval: timedelta, *, node: str) -> datetime | None:
    """When the interval asks for the next read; None when reads come with events only.

    The spread is fixed by the node's name, so that a restart does not change it, and is added to
    the interval: never is a read due early.
    """
    if interval <= timedelta(0):
        return None
    share = zlib.crc32(node.encode()) / 2**32
    return last + interval * (1 + JITTER * share)
