"""Restarts: when the operator may delete the pod of a failed check for its controller to
recreate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.api.inventory import CheckStatus, InventoryStatus
from gpuid_operator.api.values import whole_seconds
from gpuid_operator.plan.checks import find, replaced, with_checks
from gpuid_operator.plan.schedule import is_ahead
from gpuid_operator.plan.status_change import StatusChange, StatusContext, writer_of

RESTART_PAUSE: Final = timedelta(minutes=10)
"""Minimum time between two restarts on one node, and the maximum duration of a restart."""

UNDER_WAY_PAUSE: Final = timedelta(minutes=1)
"""When to retry while another restart is in progress."""

RESTARTS_IN_A_ROW: Final = 3
WIDE_NODES: Final = 2
WIDE_SHARE: Final = 0.1
"""If more nodes than both of these fail, the cause is not the pods, and restarts would do harm."""

_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class CheckOnNode:
    """The last result of one check on one node."""

    node: str
    check: CheckStatus
    present: bool = True
    """False for a node that is gone: its results do not count for the cluster."""


@dataclass(frozen=True, slots=True)
class ClusterChecks:
    """The facts about all checks of all nodes that a decision needs, so that it costs the same in
    a cluster of any size. `summarize` makes it."""

    ran: Counter[str]
    """Number of nodes with a result, by name of the check. Nodes that are gone do not count."""
    failing: Counter[str]
    """Number of these nodes on which the check fails."""
    restarted: tuple[CheckOnNode, ...]
    """The checks whose pods were restarted not long ago."""


def summarize(
    known: Iterable[CheckOnNode], *, now: datetime, pause: timedelta = RESTART_PAUSE
) -> ClusterChecks:
    """Summarize all checks for decisions at `now` or later. `pause` is that of the RestartCase."""
    ran: Counter[str] = Counter()
    failing: Counter[str] = Counter()
    restarted: list[CheckOnNode] = []
    since = now - max(_HOUR, pause)
    for seen in known:
        check = seen.check
        if seen.present and check.passed is not None:
            ran[check.name] += 1
            failing[check.name] += not check.passed
        if check.last_restart_time is not None and check.last_restart_time > since:
            restarted.append(seen)
    return ClusterChecks(ran, failing, tuple(restarted))


@dataclass(frozen=True, slots=True)
class RestartCase:
    """The facts that decide whether the pod of a failed check may be restarted."""

    node: str
    name: str
    """Name of the check."""
    controlled: bool
    """Whether a controller would recreate the pod."""
    mine: CheckStatus | None
    """The last result of the check on this node."""
    known: ClusterChecks
    """All checks of all nodes, including this one."""
    recent: Collection[tuple[str, datetime]]
    """Node and time of restarts that this process made: the status of a check holds only the last
    restart."""
    per_hour: int
    pause: timedelta = RESTART_PAUSE
    under_way_pause: timedelta = UNDER_WAY_PAUSE


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pod is not restarted now."""

    reason: str
    words: str
    again: timedelta | None
    """When to retry; None: when the check is due next."""


def refusal(case: RestartCase, *, now: datetime) -> Refusal | None:
    """The first guard that forbids the restart; None when it is allowed.

    guard                                            | reason            | retried
    -------------------------------------------------|-------------------|-------------------
    no controller                                    | RestartRefused    | when due
    three consecutive restarts did not help          | RestartsExhausted | when due
    more than two nodes and a tenth of all fail      | RestartsHalted    | when due
    this node within 10 minutes                      | RestartRefused    | after these
    another restart is in progress                   | RestartRefused    | in a minute
    RESTARTS_PER_HOUR                                | RestartRefused    | when the hour has room

    A restart in the future, by a clock that was wrong or was stepped back, counts as past.
    """
    if not case.controlled:
        return _refused("the pod has no controller that would recreate it")
    if case.mine is not None and (case.mine.restarts or 0) >= RESTARTS_IN_A_ROW:
        words = f"{RESTARTS_IN_A_ROW} consecutive restarts did not help; inspect the node"
        return Refusal("RestartsExhausted", words, None)
    failing, nodes = case.known.failing[case.name], case.known.ran[case.name]
    if failing > WIDE_NODES and failing > WIDE_SHARE * nodes:
        words = (
            f"the check fails on {failing} of {nodes} nodes; look for a common cause, which"
            " restarts do not fix"
        )
        return Refusal("RestartsHalted", words, None)
    restarts = {(seen.node, seen.check.last_restart_time) for seen in case.known.restarted}
    restarts |= {(node, whole_seconds(at)) for node, at in case.recent}
    times = [
        (node, at)
        for node, at in restarts
        if at is not None and now - at < _HOUR and not is_ahead(at, now=now)
    ]
    last = max((at for node, at in times if node == case.node), default=None)
    if last is not None and now - last < case.pause:
        return _refused(
            f"a pod of this node was restarted at {last:%H:%M:%S}Z, less than"
            f" {case.pause.total_seconds() / 60:g} minutes ago",
            last + case.pause - now,
        )
    under_way = next(
        (seen for seen in case.known.restarted if _is_under_way(seen.check, case, now)), None
    )
    if under_way is not None:
        words = f"a restart on node {under_way.node} is in progress; only one at a time is allowed"
        return _refused(words, case.under_way_pause)
    if len(times) >= case.per_hour:
        return _refused(
            f"{len(times)} restarts within the last hour; RESTARTS_PER_HOUR allows {case.per_hour}",
            min(at for _, at in times) + _HOUR - now if case.per_hour else None,
        )
    return None


def _refused(words: str, again: timedelta | None = None) -> Refusal:
    return Refusal("RestartRefused", words, again)


def _is_under_way(check: CheckStatus, case: RestartCase, now: datetime) -> bool:
    """Whether the check has not run since its pod was restarted."""
    at = check.last_restart_time
    if at is None or now - at >= case.pause or is_ahead(at, now=now):
        return False
    return check.last_run_time is None or check.last_run_time <= at


def with_restart(
    before: CheckStatus | None, *, since: datetime | None, now: datetime
) -> CheckStatus | None:
    """The status of a check, written before its pod is restarted.

    None if the pod was restarted after `since`, the last restart that the decision was based on.
    """
    if before is None or before.last_restart_time != since:
        return None
    return before.model_copy(
        update={"restarts": (before.restarts or 0) + 1, "last_restart_time": whole_seconds(now)}
    )


def after_restart(
    previous: InventoryStatus,
    name: str,
    *,
    since: datetime | None,
    now: datetime,
    context: StatusContext,
) -> StatusChange:
    """The status, written before the pod of a check is restarted; unchanged where `with_restart` is
    None."""
    check = with_restart(find(previous, name), since=since, now=now)
    if check is None:
        return StatusChange(previous)
    return with_checks(
        previous,
        replaced(previous.checks, check),
        [],
        writer=writer_of(previous, now),
        context=context,
    )
