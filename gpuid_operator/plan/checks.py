"""What the result of a check means for the status of an inventory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.api.inventory import (
    CheckStatus,
    HistoryEntry,
    HistoryType,
    InventoryState,
    InventoryStatus,
    NodeInfo,
)
from gpuid_operator.api.meta import MAX_CHECK_OUTPUT
from gpuid_operator.api.values import encoded_size, fitting, whole_seconds
from gpuid_operator.plan.diff import HistoryWriter
from gpuid_operator.plan.status_change import StatusChange, StatusContext, build_change, writer_of

CUT_MARK: Final = "\n… (cut)"
"""The end of a truncated output."""

_LINE_END: Final = re.compile(r"\r\n?")
# Control characters, including bidirectional ones, would act on the reader's terminal.
_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One run of one check on one node."""

    name: str
    digest: str
    """`digest_of` the command and where it ran."""
    passed: bool
    exit_code: int | None
    """None if the command did not exit by itself."""
    stdout: str
    stderr: str
    pod: str
    """namespace/pod."""
    time: datetime
    started: datetime | None = None
    """When the container started."""


def digest_of(*parts: str) -> str:
    """A short digest of what a check runs and where; a check with a new digest is due at once."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def kept_output(data: bytes) -> str:
    """Output as the status stores it: truncated at a line break, with a mark, to at most 4 KiB of
    the stored object. Trailing line breaks are removed, as in a shell.

    Bytes that are not UTF-8, and control characters, become U+FFFD.
    """
    whole = len(data) <= 2 * MAX_CHECK_OUTPUT
    text = data[: 2 * MAX_CHECK_OUTPUT].decode("utf-8", "replace")
    text = _UNSAFE.sub("\ufffd", _LINE_END.sub("\n", text)).rstrip("\n")
    if whole and encoded_size(text) <= MAX_CHECK_OUTPUT:
        return text
    head = fitting(text, MAX_CHECK_OUTPUT - encoded_size(CUT_MARK))
    line_end = head.rfind("\n")
    # A single line that does not fit is cut within the line.
    return (head[:line_end] if line_end > 0 else head) + CUT_MARK


def with_result(before: CheckStatus | None, result: CheckResult) -> CheckStatus:
    """The status of a check after a run. A change between pass and fail is a transition; a first
    result is a transition only if it failed."""
    before = before or CheckStatus(name=result.name)
    turned = before.passed != result.passed if before.passed is not None else not result.passed
    new = before.passed is None or before.passed != result.passed
    now = whole_seconds(result.time)
    restarted = before.last_restart_time if before.pod != result.pod else None
    if now in (restarted, result.started):
        # In whole seconds, too, the run must be later than the restart of the other pod and the
        # start of this container: a later instance compares these times.
        now += timedelta(seconds=1)
    return before.model_copy(
        update={
            "passed": result.passed,
            "transitions": (before.transitions or 0) + turned,
            "command_digest": result.digest,
            "exit_code": result.exit_code,
            "stdout": result.stdout,
            "stderr": result.stderr,
            "pod": result.pod,
            "restarts": None if result.passed else before.restarts,
            "last_run_time": now,
            "last_transition_time": now if new else before.last_transition_time,
        }
    )


def find(status: InventoryStatus, name: str) -> CheckStatus | None:
    return next((check for check in status.checks or () if check.name == name), None)


def replaced(checks: Sequence[CheckStatus] | None, check: CheckStatus) -> list[CheckStatus]:
    """The checks with `check` replaced or added, sorted by name."""
    others = [other for other in checks or () if other.name != check.name]
    return sorted([*others, check], key=lambda item: item.name)


def after_check(
    previous: InventoryStatus,
    result: CheckResult,
    *,
    node: NodeInfo | None,
    now: datetime,
    context: StatusContext,
) -> StatusChange:
    """The status of an inventory after a run of one of its checks; `node` fills in an inventory
    that has no facts of its Node yet."""
    check = with_result(find(previous, result.name), result)
    update = {
        "checks": replaced(previous.checks, check),
        "state": previous.state or InventoryState.PRESENT,
        "node": previous.node or node,
    }
    return recorded(previous.model_copy(update=update), now=now, context=context)


def recorded(previous: InventoryStatus, *, now: datetime, context: StatusContext) -> StatusChange:
    """Add transitions that are not in the history yet, from any writer of `checks`, to the
    history."""
    writer = writer_of(previous, now)
    entries: list[HistoryEntry] = []
    checks = []
    for check in previous.checks or ():
        if not is_recorded(check):
            entries.append(_entry(writer, check))
            check = check.model_copy(update={"recorded": check.transitions})
        checks.append(check)
    return with_checks(previous, checks, entries, writer=writer, context=context)


def is_recorded(check: CheckStatus) -> bool:
    return (check.transitions or 0) <= (check.recorded or 0)


def _entry(writer: HistoryWriter, check: CheckStatus) -> HistoryEntry:
    """One entry for all transitions since the last one recorded, with the latest result."""
    missed = (check.transitions or 0) - (check.recorded or 0)
    first = not check.recorded and missed == 1 and not check.passed
    words, was = ("passed", "failed") if check.passed else ("failed", "passed")
    code = "" if check.exit_code is None else f" with exit code {check.exit_code}"
    said = next((line for line in (check.stderr or check.stdout or "").splitlines() if line), "")
    times = f" (after {missed} changes)" if missed > 1 else ""
    return writer.entry(
        HistoryType.CHECK_PASSED if check.passed else HistoryType.CHECK_FAILED,
        from_=None if first else f"{check.name}={was}",
        to=f"{check.name}={words}",
        message=f"check {check.name} {words}{code}{times}" + (f": {said}" if said else ""),
        source=check.pod,
    )


def with_checks(
    previous: InventoryStatus,
    checks: Sequence[CheckStatus],
    entries: Sequence[HistoryEntry],
    *,
    writer: HistoryWriter,
    context: StatusContext,
) -> StatusChange:
    """The status with new results of checks and their history entries."""
    return build_change(
        previous, {"checks": list(checks)}, entries, writer=writer, context=context, updates={}
    )
