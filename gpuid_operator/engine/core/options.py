"""What the engine needs to know of the operator's settings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from gpuid_operator.api.policy import PolicySpec
from gpuid_operator.plan.restarts import RESTART_PAUSE, UNDER_WAY_PAUSE
from gpuid_operator.plan.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Periods that no setting changes. Tests shorten what takes minutes by design."""

    resync: timedelta = timedelta(minutes=10)
    """Between two full listings of the cluster, for what no event told."""
    catch_up: timedelta = timedelta(seconds=10)
    """From the start of a watch to the look for what was deleted before it."""
    pod_grace: timedelta = timedelta(seconds=60)
    """For this long a node may be without a target pod: pods are replaced."""
    sink_max_backoff: timedelta = timedelta(minutes=10)
    """Longest pause between two attempts to deliver to a sink that fails."""
    sink_secret_check: timedelta = timedelta(minutes=1)
    """Between two looks at the Secrets of a sink that refuses them."""
    secret_max_age: timedelta = timedelta(minutes=1)
    """For this long a Secret that was read is taken as it was."""
    restart_pause: timedelta = RESTART_PAUSE
    """After a restart the pods of the node are not restarted for this long."""
    restart_retry: timedelta = UNDER_WAY_PAUSE
    """Until a restart that waits for another one is tried again."""


DEFAULT_TIMINGS: Final = Timings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    targets: tuple[Target, ...]
    builtin: PolicySpec
    """The built-in policy, every field given."""
    cluster: str
    """CLUSTER_NAME, a field of every record."""
    workers: int
    timeout: timedelta
    suspended: bool = False
    checks_allowed: bool = False
    """Whether policies may run checks."""
    restarts_per_hour: int = 20
    timings: Timings = DEFAULT_TIMINGS


def utcnow() -> datetime:
    return datetime.now(UTC)
