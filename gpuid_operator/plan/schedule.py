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
from dataclasses import dataclass
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
    ceiling = _doubled(failures, first=first, most=most)
    return ceiling * (0.5 + chance / 2)


def full_jitter(failures: int, *, chance: float, first: timedelta, most: timedelta) -> timedelta:
    """The wait after the given number of failures in a row, anywhere between nothing and the
    doubling bound: for senders that share one receiver."""
    return _doubled(failures, first=first, most=most) * chance


def _doubled(failures: int, *, first: timedelta, most: timedelta) -> timedelta:
    # 2**31 seconds is beyond any bound; a larger exponent would only overflow.
    doublings: int = 2 ** min(failures - 1, 31)
    return min(most, first * doublings)


def next_interval_read(last: datetime, interval: timedelta, *, node: str) -> datetime | None:
    """When the interval asks for the next read; None when reads come with events only.

    The spread is fixed by the node's name, so that a restart does not change it, and is added to
    the interval: never is a read due early.
    """
    if interval <= timedelta(0):
        return None
    share = zlib.crc32(node.encode()) / 2**32
    try:
        return last + interval * (1 + JITTER * share)
    except OverflowError:  # beyond the year 9999
        return None


@dataclass(frozen=True, slots=True)
class ReadState:
    """What decides about the next read of a node."""

    running: bool
    """Whether a target container runs there."""
    ready_container: str | None
    """Its containerID, where it is ready, too."""
    read_container: str | None
    """The containerID that the last good read was taken from."""
    last_read: datetime | None
    ok: bool
    """Whether the last attempt was good, as far as the status tells."""
    interval: timedelta
    suspended: bool
    request_open: bool
    """Whether requestedAt has a token that was not handled."""
    failed_container: str | None = None
    """The containerID of the failures since the last good read, if there are any."""
    retry_at: datetime | None = None
    """The end of their back-off."""
    hung: bool = False
    """Whether the last of them was a time-out: the command may still be running."""
    confirm_at: datetime | None = None
    """When a second read can tell whether a GPU is gone."""


def next_read_at(read_state: ReadState, *, node: str, now: datetime) -> datetime | None:
    """When to read the node next, as the table above says; None for never."""
    if read_state.suspended or not read_state.running:
        return None
    failing = read_state.retry_at is not None
    current = read_state.ready_container
    if failing and current in (None, read_state.failed_container):
        asked = read_state.request_open and not read_state.hung
        return now if asked else read_state.retry_at
    if current is not None and current != read_state.read_container:
        # A removal that waits for its second read has not advanced `source`.
        return read_state.confirm_at or now
    if read_state.request_open or not read_state.ok or read_state.last_read is None:
        return now
    return read_state.confirm_at or next_interval_read(
        read_state.last_read, read_state.interval, node=node
    )
