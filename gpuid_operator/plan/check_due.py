"""When a check is due on a node."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gpuid_operator.api.inventory import CheckStatus
from gpuid_operator.plan.schedule import (
    backoff,
    is_ahead,
    next_interval_read,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPlacement:
    """A check, and the ready container on a node that can run it."""

    node: str
    digest: str
    """`digest_of` the command and the place."""
    interval: timedelta
    """Zero: the check runs only when a container becomes ready."""
    pod: str
    """namespace/pod."""
    container_id: str
    started: datetime | None
    """When the container started."""


@dataclass(frozen=True, slots=True)
class CheckAttempts:
    """What a process remembers of a check on a node in addition to the last result."""

    container_id: str
    """The container of the last run."""
    failures: int = 0
    """Consecutive runs that were inconclusive or hung, or whose result was not stored."""
    not_before: datetime | None = None
    """When the back-off ends."""
    run_again_at: datetime | None = None
    """When to run the check before its interval has passed."""

    def backed_off(self, *, retry: bool, now: datetime, chance: float) -> CheckAttempts:
        """The attempts after one more failure. With `retry` the check runs again when the back-off
        ends, otherwise only if it is due by then. `chance` is in [0, 1)."""
        failures = self.failures + 1
        not_before = now + backoff(failures, chance=chance)
        return CheckAttempts(self.container_id, failures, not_before, not_before if retry else None)

    def succeeded(self) -> CheckAttempts:
        """The attempts after a run whose result was stored."""
        return CheckAttempts(self.container_id)

    def again_in(self, wait: timedelta | None, *, now: datetime) -> CheckAttempts:
        """The attempts where the check is to run again after `wait`; None: when it is due."""
        return replace(self, run_again_at=None if wait is None else now + wait)


def next_run_at(
    last: CheckStatus | None,
    placement: CheckPlacement,
    attempts: CheckAttempts | None,
    *,
    now: datetime,
) -> datetime | None:
    """When to run a check; None: not before another container is ready.

    `attempts` is None if this process has not run the check on this node. The times in the status
    then show whether this container has run it.

    the check has no result, or one of another command or place | now
    the result is from the future: the clock was stepped back   | now
    this container has not run the check                        | now
    otherwise                                                   | after `interval`, spread by up to
                                                                | a tenth; never if it is zero

    For a container that this process has asked, `run_again_at` brings the run forward, and
    `not_before` postpones it.
    """
    asked = None if attempts is None else attempts.container_id == placement.container_id
    due = _due_by_result(last, placement, asked=asked, now=now)
    if attempts is None or not asked:
        return due
    times = [at for at in (due, attempts.run_again_at) if at is not None]
    if not times:
        return None
    return max(min(times), attempts.not_before or min(times))


def _due_by_result(
    last: CheckStatus | None, placement: CheckPlacement, *, asked: bool | None, now: datetime
) -> datetime | None:
    if last is None or last.last_run_time is None or last.command_digest != placement.digest:
        return now
    if is_ahead(last.last_run_time, now=now):
        return now
    if asked is None:
        started = placement.started
        restarted = started is not None and last.last_run_time <= started
        asked = last.pod == placement.pod and not restarted
    if not asked:
        return now
    return next_interval_read(last.last_run_time, placement.interval, node=placement.node, now=now)
