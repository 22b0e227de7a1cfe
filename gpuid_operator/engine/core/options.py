"""What the engine needs to know of the operator's settings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gpuid_operator.api.policy import PolicySpec
from gpuid_operator.engine.reconcile.resync import PERIOD
from gpuid_operator.plan.target import Target


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
    resync_period: timedelta = PERIOD


def utcnow() -> datetime:
    return datetime.now(UTC)
