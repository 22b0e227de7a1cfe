"""Restarts: when a failed check may have its pod deleted, so that its controller starts it anew."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.api.inventory import CheckStatus, InventoryStatus
from gpuid_operator.api.values import whole_seconds
from gpuid_operator.plan.checks import find, replaced, with_checks
from gpuid_operator.plan.status_change import StatusChange, StatusContext, writer_of

RESTART_PAUSE: Final = timedelta(minutes=10)
"""A node's pod is not restarted twice within this time; a restart is over after it, too."""

UNDER_WAY_PAUSE: Final = timedelta(minutes=1)
"""When to ask again while another restart is under way."""

RESTARTS_IN_A_ROW: Final = 3
WIDE_NODES: Final = 2
WIDE_SHARE: Final = 0.1
"""More failing nodes than both of these: not the pods' fault; restarts would do harm."""

_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class CheckOnNode:
    """What is known of one check on one node."""

    node: str
    check: CheckStatus
    present: bool = True
    """False for a node that is gone: what it failed says nothing of the fleet."""


@dataclass(frozen=True, slots=True)
class RestartCase:
    """What decides whether a failed check may have its pod restarted."""

    node: str
    name: str
    """Of the check."""
    controlled: bool
    """Whether a controller would start the pod anew."""
    known: Sequence[CheckOnNode]
    """All checks of all nodes, this one included."""
    recent: Collection[tuple[str, datetime]]
    """Node and time of restarts that are known otherwise: of a check that was restarted twice
    within the hour the status has only the last."""
    per_hour: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pod is not restarted."""

    reason: str
    words: str
    again: timedelta | None
    """When to ask again; None: not before the check is due anyway."""


def refusal(case: RestartCase, *, now: datetime) -> Refusal | None:
    """Why a pod is not restarted; None when it may be. The first that holds counts.

    guard                                            | reason            | asked again
    -------------------------------------------------|-------------------|-------------------
    no controller                                    | RestartRefused    | when due
    three in a row have not helped                   | RestartsExhausted | when due
    more than two nodes and a tenth fail             | RestartsHalted    | when due
    this node within 10 minutes                      | RestartRefused    | when these are over
    another restart is under way                     | RestartRefused    | in a minute
    RESTARTS_PER_HOUR                                | RestartRefused    | when the hour has room
    """
    if not case.controlled:
        return _refused("the pod has no controller that would start it anew")
    same = [seen for seen in case.known if seen.check.name == case.name]
    mine = next((seen.check for seen in same if seen.node == case.node), None)
    if mine is not None and (mine.restarts or 0) >= RESTARTS_IN_A_ROW:
        words = f"{RESTARTS_IN_A_ROW} restarts in a row have not helped; look at the node"
        return Refusal("RestartsExhausted", words, None)
    failing = sum(1 for seen in same if seen.present and seen.check.passed is False)
    nodes = sum(1 for seen in same if seen.present and seen.check.passed is not None)
    if failing > WIDE_NODES and failing > WIDE_SHARE * nodes:
        words = (
            f"the check fails on {failing} of {nodes} nodes: restarts would not mend what is"
            " wrong everywhere"
        )
        return Refusal("RestartsHalted", words, None)
    restarts = {(seen.node, seen.check.last_restart_time) for seen in case.known}
    restarts |= {(node, whole_seconds(at)) for node, at in case.recent}
    times = [(node, at) for node, at in restarts if at is not None and now - at < _HOUR]
    last = max((at for node, at in times if node == case.node), default=None)
    if last is not None and now - last < RESTART_PAUSE:
        return _refused(
            f"a pod of this node was restarted at {last:%H:%M:%S}Z, less than"
            f" {RESTART_PAUSE.total_seconds() / 60:g} minutes ago",
            last + RESTART_PAUSE - now,
        )
    under_way = next((seen for seen in case.known if _is_under_way(seen.check, now)), None)
    if under_way is not None:
        words = f"that of node {under_way.node} is being restarted; one at a time"
        return _refused(words, UNDER_WAY_PAUSE)
    if len(times) >= case.per_hour:
        return _refused(
            f"{len(times)} restarts within the last hour, RESTARTS_PER_HOUR allows {case.per_hour}",
            min(at for _, at in times) + _HOUR - now if case.per_hour else None,
        )
    return None


def _refused(words: str, again: timedelta | None = None) -> Refusal:
    return Refusal("RestartRefused", words, again)


def _is_under_way(check: CheckStatus, now: datetime) -> bool:
    """Whether a restart was asked for and no run since has told what came of it."""
    at = check.last_restart_time
    if at is None or now - at >= RESTART_PAUSE:
        return False
    return check.last_run_time is None or check.last_run_time <= at


def with_restart(
    before: CheckStatus | None, *, since: datetime | None, now: datetime
) -> CheckStatus | None:
    """The status of a check whose pod is about to be restarted; written before it is.

    None where it was restarted after `since`, the last time that the decision knew of.
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
    """The status before a check has its pod restarted; the same as before where `with_restart`
    gives nothing."""
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
