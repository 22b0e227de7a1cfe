"""When a read of a node is due, and the back-off after failures.

event                                        | due
---------------------------------------------|---------------------------------------------
target container has an unread containerID   | at once
requestedAt has an unhandled token           | at once; after a time-out, when the back-off ends
the last read failed                         | when the back-off ends
the removal of a GPU awaits a second read    | 10 s after the first
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
"""Fraction of the read interval over which the reads of all nodes are spread."""


def backoff(
    failures: int,
    *,
    chance: float,
    first: timedelta = BACKOFF_FIRST,
    most: timedelta = BACKOFF_MAX,
) -> timedelta:
    """The delay after the given number of consecutive failures (at least 1).

    It doubles from `first` to `most`; `chance` in [0, 1) spreads it over the upper half, so that
    nodes that failed together do not retry together.
    """
    ceiling = _doubled(failures, first=first, most=most)
    return ceiling * (0.5 + chance / 2)


def full_jitter(failures: int, *, chance: float, first: timedelta, most: timedelta) -> timedelta:
    """The delay after the given number of consecutive failures, between zero and the doubling
    bound: for senders that share one receiver."""
    return _doubled(failures, first=first, most=most) * chance


def _doubled(failures: int, *, first: timedelta, most: timedelta) -> timedelta:
    # 2**31 seconds is beyond any bound; a larger exponent would only overflow.
    doublings: int = 2 ** min(failures - 1, 31)
    return min(most, first * doublings)


def next_interval_read(last: datetime, interval: timedelta, *, node: str) -> datetime | None:
    """When the interval makes the next read due; None if only events do.

    The spread depends on the node's name, so that a restart does not change it. It extends the
    interval, so that no read is due early.
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
    """The facts that decide when the next read of a node is due."""

    running: bool
    """Whether a target container is running on the node."""
    ready_container: str | None
    """containerID of the target container if it is ready."""
    read_container: str | None
    """containerID of the last successful read."""
    last_read: datetime | None
    ok: bool
    """Whether the last attempt succeeded, according to the status."""
    interval: timedelta
    suspended: bool
    request_open: bool
    """Whether requestedAt has an unhandled token."""
    failed_container: str | None = None
    """containerID of the failures since the last successful read, if any."""
    retry_at: datetime | None = None
    """End of the back-off after these failures."""
    hung: bool = False
    """Whether the last failure was a time-out: the command may still be running."""
    confirm_at: datetime | None = None
    """When a second read can confirm the removal of a GPU."""


def next_read_at(read_state: ReadState, *, node: str, now: datetime) -> datetime | None:
    """When to read the node next, by the table above; None for never."""
    if read_state.suspended or not read_state.running:
        return None
    failing = read_state.retry_at is not None
    current = read_state.ready_container
    if failing and current in (None, read_state.failed_container):
        asked = read_state.request_open and not read_state.hung
        return now if asked else read_state.retry_at
    if current is not None and current != read_state.read_container:
        # The first read of a pending removal did not advance `source`.
        return read_state.confirm_at or now
    if read_state.request_open or not read_state.ok or read_state.last_read is None:
        return now
    return read_state.confirm_at or next_interval_read(
        read_state.last_read, read_state.interval, node=node
    )
