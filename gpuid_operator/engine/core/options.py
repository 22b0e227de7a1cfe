"""The settings of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from gpuid_operator.api.policy import PolicySpec
from gpuid_operator.plan.quarantine_taints import DEFAULT_MAX_NODES, NodeLimit
from gpuid_operator.plan.restarts import RESTART_PAUSE, UNDER_WAY_PAUSE
from gpuid_operator.plan.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Periods that no setting changes. Tests shorten those that last minutes."""

    resync: timedelta = timedelta(minutes=10)
    """Time between two full lists of the cluster, for changes that no event reported."""
    catch_up: timedelta = timedelta(seconds=10)
    """Time from the start of a watch to the list of what was deleted before it."""
    pod_grace: timedelta = timedelta(seconds=60)
    """Time for which a node may be without a target pod: pods are replaced."""
    namespace_look: timedelta = timedelta(minutes=1)
    """Time between two looks into namespaces in which the operator may not list target pods any
    more."""
    sink_max_backoff: timedelta = timedelta(minutes=10)
    """Longest pause between two attempts to deliver to a sink that fails."""
    sink_secret_check: timedelta = timedelta(minutes=1)
    """Time between two looks at the Secrets of a sink that refuses them."""
    secret_max_age: timedelta = timedelta(minutes=1)
    """Time for which the operator uses a Secret without reading it again."""
    quarantine_look: timedelta = timedelta(seconds=30)
    """Time between two looks for quarantines that are not served yet."""
    restart_pause: timedelta = RESTART_PAUSE
    """Time after a restart in which the pods of the node are not restarted again."""
    restart_retry: timedelta = UNDER_WAY_PAUSE
    """Time until a restart that waits for another one is tried again."""


DEFAULT_TIMINGS: Final = Timings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings of the operator, from its environment and its command line."""

    targets: tuple[Target, ...]
    """Where nvidia-smi runs. Where a node has pods of several targets, the first one counts."""
    builtin: PolicySpec
    """The built-in policy, with a value in every field."""
    cluster: str
    """CLUSTER_NAME, a field of every record."""
    workers: int
    """Nodes that are reconciled at the same time, and largest number of execs."""
    timeout: timedelta
    """Longest time that a run of nvidia-smi takes."""
    suspended: bool = False
    """Whether reads, checks and label writes are suspended in the whole cluster."""
    checks_allowed: bool = False
    """Whether policies may run checks."""
    restarts_per_hour: int = 20
    """Largest number of pods that checks restart in an hour."""
    quarantine_taints: bool = False
    """Whether quarantines may taint nodes."""
    quarantine_max_nodes: NodeLimit = DEFAULT_MAX_NODES
    """Largest number of nodes with the taint."""
    timings: Timings = DEFAULT_TIMINGS


def utcnow() -> datetime:
    """The time of day, with its time zone."""
    return datetime.now(UTC)
