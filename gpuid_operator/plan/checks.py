"""Checks: what a result means for the status, and when a failed check may restart its pod."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.api.inventory import (
    CheckStatus,
    HistoryEntry,
    HistoryType,
    InventoryStatus,
)
from gpuid_operator.api.meta import MAX_CHECK_OUTPUT
from gpuid_operator.plan import status as plan
from gpuid_operator.plan.diff import Scribe
from gpuid_operator.plan.schedule import next_interval_read
from gpuid_operator.plan.status import Outcome, Terms

CUT_MARK: Final = "\n… (cut)"
"""Ends an output of which only the beginning is kept."""

RESTART_PAUSE: Final = timedelta(minutes=10)
"""A node's pod is not restarted twice within this time; a restart is over after it, too."""

RESTARTS_IN_A_ROW: Final = 3
WIDE_NODES: Final = 2
WIDE_SHARE: Final = 0.1
"""More failing nodes than both of these: not the pods' fault; restarts would do harm."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One run of one check on one node."""

    name: str
    passed: bool
    exit_code: int | None
    """None where the command did not end by itself."""
    stdout: str
    stderr: str
    pod: str
    """namespace/pod."""
    time: datetime


def kept_output(data: bytes) -> str:
    """Output as status keeps it: at most 4 KiB of UTF-8, cut at a line, and marked where cut.

    Bytes that are no text, and control characters that no API object should carry, become U+FFFD.
    """
    text = data[: 2 * MAX_CHECK_OUTPUT].decode("utf-8", "replace")
    text = "".join(c if c.isprintable() or c in "\t\n" else "\ufffd" for c in text)
    if len(data) <= 2 * MAX_CHECK_OUTPUT and len(text.encode()) <= MAX_CHECK_OUTPUT:
        return text
    room = MAX_CHECK_OUTPUT - len(CUT_MARK.encode())
    head = text.encode()[:room].decode("utf-8", "ignore")
    line_end = head.rfind("\n")
    # A single line longer than all that fits is cut where it has to be.
    return (head[:line_end] if line_end > 0 else head) + CUT_MARK


def with_result(before: CheckStatus | None, result: CheckResult) -> CheckStatus:
    """The status of a check after a run. A change between pass and fail is a transition; a first
    result is one only if it failed."""
    before = before or CheckStatus(name=result.name)
    turned = before.passed != result.passed if before.passed is not None else not result.passed
    new = before.passed is None or before.passed != result.passed
    return before.model_copy(
        update={
            "passed": result.passed,
            "transitions": (before.transitions or 0) + turned,
            "exit_code": result.exit_code,
            "stdout": result.stdout,
            "stderr": result.stderr,
            "pod": result.pod,
            "restarts": None if result.passed else before.restarts,
            "last_run_time": result.time,
            "last_transition_time": result.time if new else before.last_transition_time,
        }
    )


def with_restart(before: CheckStatus, *, now: datetime) -> CheckStatus:
    """The status of a check whose pod is about to be restarted; written before it is."""
    return before.model_copy(
        update={"restarts": (before.restarts or 0) + 1, "last_restart_time": now}
    )


def find(status: InventoryStatus, name: str) -> CheckStatus | None:
    return next((check for check in status.checks or () if check.name == name), None)


def replaced(checks: Sequence[CheckStatus] | None, check: CheckStatus) -> list[CheckStatus]:
    """The checks with one of them new, in the order of their names."""
    others = [other for other in checks or () if other.name != check.name]
    return sorted([*others, check], key=lambda item: item.name)


def after_check(
    previous: InventoryStatus, result: CheckResult, *, now: datetime, terms: Terms
) -> Outcome:
    """The status of an inventory after a run of a check of its own."""
    check = with_result(find(previous, result.name), result)
    return recorded(
        previous.model_copy(update={"checks": replaced(previous.checks, check)}),
        now=now,
        terms=terms,
    )


def recorded(previous: InventoryStatus, *, now: datetime, terms: Terms) -> Outcome:
    """Turn transitions that are not in history yet, whoever ran the check, into history."""
    scribe = plan.scribe_of(previous, now)
    entries: list[HistoryEntry] = []
    checks = []
    for check in previous.checks or ():
        if not is_recorded(check):
            entries.append(_entry(scribe, check))
            check = check.model_copy(update={"recorded": check.transitions})
        checks.append(check)
    return plan.with_checks(previous, checks, entries, scribe=scribe, terms=terms)


def is_recorded(check: CheckStatus) -> bool:
    return (check.transitions or 0) <= (check.recorded or 0)


def _entry(scribe: Scribe, check: CheckStatus) -> HistoryEntry:
    """One entry for however many transitions were missed: where the check stands now."""
    missed = (check.transitions or 0) - (check.recorded or 0)
    first = not check.recorded and missed == 1 and not check.passed
    words, was = ("passed", "failed") if check.passed else ("failed", "passed")
    code = "" if check.exit_code is None else f" with exit code {check.exit_code}"
    said = next((line for line in (check.stderr or check.stdout or "").splitlines() if line), "")
    times = f" (after {missed} changes)" if missed > 1 else ""
    return scribe.entry(
        HistoryType.CHECK_PASSED if check.passed else HistoryType.CHECK_FAILED,
        from_=None if first else f"{check.name}={was}",
        to=f"{check.name}={words}",
        message=f"check {check.name} {words}{code}{times}" + (f": {said}" if said else ""),
        source=check.pod,
    )


def check_due(
    last_run: datetime | None,
    *,
    started: datetime | None,
    interval: timedelta,
    node: str,
    now: datetime,
) -> datetime | None:
    """When to run a check next; None: not before its pod is started anew.

    `started` is when the pod's container started: one that was not asked since is due at once.
    """
    if last_run is None or (started is not None and last_run < started):
        return now
    return next_interval_read(last_run, interval, node=node)


@dataclass(frozen=True, slots=True)
class RestartCase:
    """What decides whether a failed check may have its pod restarted."""

    check: CheckStatus
    controlled: bool
    """Whether a controller would start the pod anew."""
    others: tuple[CheckStatus, ...]
    """The statuses of all checks of all nodes, this one's own included."""
    failing: int
    """Nodes on which this check fails at present."""
    nodes: int
    """Nodes on which this check has a result."""
    per_hour: int


def refusal(case: RestartCase, *, now: datetime) -> tuple[str, str] | None:
    """Why a pod is not restarted, as reason and sentence; None when it may be.

    guard                                            | reason
    -------------------------------------------------|-----------------
    no controller                                    | RestartRefused
    three in a row have not helped                   | RestartsExhausted
    more than two nodes and a tenth fail             | RestartsHalted
    this node within 10 minutes                      | RestartRefused
    another restart is under way                     | RestartRefused
    RESTARTS_PER_HOUR                                | RestartRefused
    """
    if not case.controlled:
        return "RestartRefused", "the pod has no controller that would start it anew"
    if (case.check.restarts or 0) >= RESTARTS_IN_A_ROW:
        return (
            "RestartsExhausted",
            f"{RESTARTS_IN_A_ROW} restarts in a row have not helped; look at the node",
        )
    if case.failing > WIDE_NODES and case.failing > WIDE_SHARE * case.nodes:
        return (
            "RestartsHalted",
            f"the check fails on {case.failing} of {case.nodes} nodes: restarts would not mend"
            " what is wrong everywhere",
        )
    times = [other.last_restart_time for other in case.others if other.last_restart_time]
    last = case.check.last_restart_time
    if last is not None and now - last < RESTART_PAUSE:
        return "RestartRefused", "the pod of this node was restarted less than 10 minutes ago"
    if any(_is_under_way(other, now) for other in case.others):
        return "RestartRefused", "another pod is being restarted; one at a time"
    hour = [at for at in times if now - at < timedelta(hours=1)]
    if len(hour) >= case.per_hour:
        return (
            "RestartRefused",
            f"{len(hour)} restarts within the last hour, RESTARTS_PER_HOUR allows {case.per_hour}",
        )
    return None


def _is_under_way(check: CheckStatus, now: datetime) -> bool:
    """Whether a restart was asked for and no run since has told what came of it."""
    at = check.last_restart_time
    if at is None or now - at >= RESTART_PAUSE:
        return False
    return check.last_run_time is None or check.last_run_time <= at


def after_restart(previous: InventoryStatus, name: str, *, now: datetime, terms: Terms) -> Outcome:
    """The status before a check has its pod restarted."""
    check = with_restart(find(previous, name) or CheckStatus(name=name), now=now)
    return plan.with_checks(
        previous,
        replaced(previous.checks, check),
        [],
        scribe=plan.scribe_of(previous, now),
        terms=terms,
    )
