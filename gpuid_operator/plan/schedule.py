"""When a read of a node is due, and the back-off after failures.

event                                        | due
---------------------------------------------|---------------------------------------------
target container is ready and was not read   | at once
requestedAt has an unhandled token           | at once; after a time-out, when the back-off ends
the last read failed                         | when the back-off ends
the removal of a GPU awaits a second read    | 10 s after the first
another inventory lists one of its GPUs      | at once, then once a minute until that is clear
its ResourceSlices changed, and differ       | at once, then not before they change again
readInterval has passed                      | then, spread by up to a tenth of the interval
suspended, or no target pod                  | never

A container that was not read yet waits until it is ready, also where the last read of the node
failed in another container.

The clock may be set. A time of a status that is in the future counts as past, so that nothing waits
for it; back-offs and confirmations take as long as they say (`engine/core/wall_clock.py`).
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
CLOCK_SKEW: Final = timedelta(minutes=1)
"""How far the clock of another instance may be ahead before its times count as wrong."""


def is_ahead(at: datetime, *, now: datetime) -> bool:
    """Whether a time is ahead by more than CLOCK_SKEW: the clock was wrong or was stepped back."""
    return at - now > CLOCK_SKEW


def is_wrong(now: datetime, *, server: datetime | None) -> bool:
    """Whether the clock of this process differs from the API server's, as far as that is known."""
    return server is not None and abs(now - server) > CLOCK_SKEW


def right_time(now: datetime, *, server: datetime | None) -> datetime:
    """The time of this process, or the API server's where the two differ."""
    return server if server is not None and is_wrong(now, server=server) else now


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


def next_interval_read(
    last: datetime, interval: timedelta, *, node: str, now: datetime
) -> datetime | None:
    """When the interval makes the next read due; None if only events do. A last read in the future
    counts as past its interval.

    The spread depends on the node's name, so that a restart does not change it. It extends the
    interval, so that no read is due early.
    """
    if interval <= timedelta(0):
        return None
    if is_ahead(last, now=now):
        return now
    share = zlib.crc32(node.encode()) / 2**32
    try:
        return min(last, now) + interval * (1 + JITTER * share)
    except OverflowError:  # beyond the year 9999
        return None


@dataclass(frozen=True, slots=True)
class ReadState:
    """The facts that decide when the next read of a node is due."""

    container: str | None
    """containerID of the running target container; None if there is none."""
    ready: bool
    """Whether that container is ready."""
    read_container: str | None
    """containerID of the last successful read; None for a node that was never read or departed."""
    last_read: datetime | None
    """None for a node that was never read or departed."""
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
    reread_at: datetime | None = None
    """When a read shall show whether the node still has a GPU that another inventory lists, or has
    the GPUs that its ResourceSlices publish."""

    @property
    def lacks_container(self) -> bool:
        """Whether there is no container to read the node in: none is running, or the node was never
        read and its container is not ready."""
        return self.container is None or (self.read_container is None and not self.ready)


def next_read_at(read_state: ReadState, *, node: str, now: datetime) -> datetime | None:
    """When to read the node next, by the table above; None for never."""
    container, last = read_state.container, read_state.last_read
    if read_state.suspended or container is None:
        return None
    if read_state.retry_at is not None and container == read_state.failed_container:
        asked = read_state.request_open and not read_state.hung
        return now if asked else read_state.retry_at
    confirm_at = read_state.confirm_at
    unread = container != read_state.read_container
    if unread and read_state.ready:
        # The first read of a pending removal did not advance `source`.
        return confirm_at or now
    if read_state.request_open or (not unread and (not read_state.ok or last is None)):
        return now
    due = confirm_at
    if due is None and last is not None:
        due = next_interval_read(last, read_state.interval, node=node, now=now)
    # A container that was not read yet is read when it is ready, which shows it, too.
    reread_at = None if unread else read_state.reread_at
    return min((at for at in (due, reread_at) if at is not None), default=None)
