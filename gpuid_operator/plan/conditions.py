"""The conditions of a GPUInventory: status, reason, message and time of the last transition."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from gpuid_operator.api.inventory import (
    GPU,
    CheckStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    GPUState,
    HistoryEntry,
    HistoryType,
    SinkStatus,
)
from gpuid_operator.api.values import truncate
from gpuid_operator.plan.identity import IDENTITY_FACTS

MAX_CONDITION_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class ConditionUpdate:
    """The current status, reason and message of a condition."""

    status: ConditionStatus
    reason: str
    message: str = ""


NODE_GONE: Final = ConditionUpdate(ConditionStatus.UNKNOWN, "NodeDeparted", "the node is gone")


def find(conditions: Sequence[Condition] | None, kind: ConditionType) -> Condition | None:
    return next((item for item in conditions or () if item.type == kind), None)


def shown(conditions: Sequence[Condition] | None, kind: ConditionType) -> ConditionUpdate | None:
    """What a condition says now; None where there is none."""
    found = find(conditions, kind)
    return None if found is None else ConditionUpdate(found.status, found.reason, found.message)


def updated(
    conditions: Sequence[Condition] | None,
    updates: dict[ConditionType, ConditionUpdate | None],
    *,
    now: datetime,
    generation: int,
) -> list[Condition]:
    """Apply updates to the conditions; None removes one. Only a new `status` is a transition.

    Conditions of other types belong to other writers and are left out of our writes.
    """
    order = [kind.value for kind in ConditionType]
    merged = {item.type: item for item in conditions or () if item.type in order}
    for kind, condition in updates.items():
        before = merged.pop(kind.value, None)
        if condition is None:
            continue
        same = before is not None and before.status is condition.status
        merged[kind.value] = Condition(
            type=kind.value,
            status=condition.status,
            reason=condition.reason,
            message=truncate(condition.message, MAX_CONDITION_MESSAGE),
            observed_generation=generation,
            last_transition_time=before.last_transition_time if before and same else now,
        )
    return sorted(merged.values(), key=lambda item: order.index(item.type))


def of_object(
    conditions: Sequence[Condition] | None,
    kind: str,
    status: ConditionStatus,
    reason: str,
    message: str = "",
    *,
    generation: int,
    now: datetime,
) -> Condition:
    """The next condition of a policy or a quarantine that has these conditions now."""
    before = next((item for item in conditions or () if item.type == kind), None)
    same = before is not None and before.status is status
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=truncate(message, MAX_CONDITION_MESSAGE),
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before and same else now,
    )


def read_ok(unread: Sequence[tuple[str, GPU]], unclaimed: Sequence[GPU] = ()) -> ConditionUpdate:
    """The condition `Ready` after a successful read; `unread` are the known identity facts that
    it does not have, `unclaimed` the GPUs that the claim of its container does not include."""
    gpus: dict[str, list[str]] = {}
    for fact, gpu in unread:
        gpus.setdefault(fact, []).append(gpu.uuid or gpu.pci_address or "")
    kept = "; ".join(
        f"{IDENTITY_FACTS[fact]} of {', '.join(names)}" for fact, names in gpus.items()
    )
    messages = []
    if kept:
        messages.append(f"nvidia-smi did not report known facts, which stay as last read: {kept}")
    if unclaimed:
        names = ", ".join(gpu.uuid or "" for gpu in unclaimed)
        messages.append(
            "ResourceSlices publish GPUs that the resource claim of the pod does not include; they"
            f" stay as last read: {names}"
        )
    return ConditionUpdate(ConditionStatus.TRUE, "ReadOK", "; ".join(messages))


def healthy(gpus: Sequence[GPU] | None) -> ConditionUpdate:
    """Whether nvidia-smi reports every GPU as healthy."""
    if gpus is None:
        return ConditionUpdate(ConditionStatus.UNKNOWN, "NotRead", "no successful read yet")
    troubles = [
        f"{gpu.uuid or gpu.pci_address}: {trouble}" for gpu in gpus for trouble in _troubles(gpu)
    ]
    if troubles:
        return ConditionUpdate(ConditionStatus.FALSE, "GPUUnhealthy", "; ".join(troubles))
    unread = [gpu.uuid or gpu.pci_address or "" for gpu in gpus if gpu.state is GPUState.UNKNOWN]
    if unread:
        return ConditionUpdate(
            ConditionStatus.UNKNOWN, "GPUUnreadable", f"failed to read {', '.join(unread)}"
        )
    return ConditionUpdate(ConditionStatus.TRUE, "GPUsHealthy", "")


def _troubles(gpu: GPU) -> list[str]:
    troubles = []
    if gpu.state is GPUState.LOST:
        troubles.append("lost")
    elif gpu.state is GPUState.RESET_REQUIRED:
        troubles.append("needs a reset")
    health = gpu.health
    if health is not None:
        if health.recovery_action not in (None, "None"):
            troubles.append(f"recovery action {health.recovery_action}")
        if health.remapped_rows_failed:
            troubles.append("row remap failed")
        if health.remapped_rows_pending:
            troubles.append("row remap pending")
        if health.retired_pages_pending:
            troubles.append("page retirement pending")
    return troubles


def delivered(
    sinks: Sequence[SinkStatus] | None, history: Sequence[HistoryEntry] | None
) -> ConditionUpdate:
    """Whether every sink has received every entry."""
    waiting = [sink for sink in sinks or () if sink.pending]
    if not sinks:
        return ConditionUpdate(ConditionStatus.TRUE, "NoSinks", "no sink is configured")
    if not waiting:
        return ConditionUpdate(ConditionStatus.TRUE, "Delivered", "")
    failing = [sink for sink in waiting if sink.last_error]
    words = [
        f"sink {sink.name}: {sink.pending} pending"
        + (f": {sink.last_error}" if sink.last_error else "")
        for sink in failing or waiting
    ]
    oldest = min(sink.delivered_sequence for sink in waiting)
    dropped = next(
        (
            entry
            for entry in history or ()
            if entry.type is HistoryType.DROPPED and entry.sequence > oldest
        ),
        None,
    )
    if dropped is not None:
        return ConditionUpdate(
            ConditionStatus.FALSE, "Overflow", "; ".join([dropped.message or "", *words])
        )
    reason = _delivery_reason(failing) if failing else "Pending"
    return ConditionUpdate(ConditionStatus.FALSE, reason, "; ".join(words))


_REASON: Final = re.compile(r"([A-Z][A-Za-z]{1,63}): ")


def _delivery_reason(failing: Sequence[SinkStatus]) -> str:
    """The reason at the beginning of the errors, if all have the same one."""
    found = [_REASON.match(sink.last_error or "") for sink in failing]
    reasons = {match[1] for match in found if match}
    return reasons.pop() if len(reasons) == 1 and all(found) else "DeliveryFailed"


def checks_passed(checks: Sequence[CheckStatus] | None) -> ConditionUpdate | None:
    """Whether every check passed at its last run; None without results of checks."""
    done = [check for check in checks or () if check.passed is not None]
    if not done:
        return None
    failed = [check for check in done if not check.passed]
    if failed:
        words = [
            f"{check.name}: "
            + ("no exit code" if check.exit_code is None else f"exit code {check.exit_code}")
            + (f", restarts so far: {check.restarts}" if check.restarts else "")
            for check in failed
        ]
        return ConditionUpdate(ConditionStatus.FALSE, "ChecksFailed", "; ".join(words))
    return ConditionUpdate(ConditionStatus.TRUE, "ChecksPassed", "")
