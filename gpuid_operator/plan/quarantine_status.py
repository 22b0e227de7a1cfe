"""The status of a quarantine: where its parts are, and whether it does what it asks for.

The first row that applies is the condition `Ready`:

    the quarantine                              | status | reason
    --------------------------------------------|--------|---------------
    cannot be parsed                            | False  | NotUnderstood
    `until` is past                             | False  | Expired
    asks for taints, which are not allowed      | False  | TaintsDisabled
    asks for a taint that no room is left for   | False  | TaintsHalted
    otherwise                                   | True   | InForce

The matches and `Present` of a quarantine that cannot be parsed stay as they were: which parts it
lists is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final

from gpuid_operator.api.conditions import Condition, ConditionStatus
from gpuid_operator.api.meta import MAX_QUARANTINE_MATCHES
from gpuid_operator.api.quarantine import Quarantine, QuarantineMatch, QuarantineStatus
from gpuid_operator.api.values import format_time, whole_seconds
from gpuid_operator.plan import conditions
from gpuid_operator.plan.quarantine import Identifiers, QuarantineRule
from gpuid_operator.plan.quarantine_taints import TaintPlan

TAINTS_HALTED: Final = "TaintsHalted"

Found = tuple[str, Identifiers]
"""(node, GPU) of a present GPU that a quarantine lists."""


def quarantine_status(
    quarantine: Quarantine,
    *,
    found: Sequence[Found],
    taints: TaintPlan | None,
    now: datetime,
) -> QuarantineStatus:
    """The next status. `found` is sorted by node; `taints` is None where they are not allowed."""
    condition = partial(
        conditions.of_object,
        quarantine.status.conditions,
        generation=quarantine.generation,
        now=now,
    )
    if quarantine.fault:
        ready = condition("Ready", ConditionStatus.FALSE, "NotUnderstood", _fault(quarantine))
        return _not_understood(quarantine, ready)
    status, reason, message = _ready(quarantine, taints, now=now)
    nodes = list(dict.fromkeys(node for node, _ in found))
    if found:
        present = condition(
            "Present",
            ConditionStatus.TRUE,
            "PartPresent",
            f"GPUs in this cluster: {len(found)}, on {_listed(nodes)}",
        )
    else:
        present = condition("Present", ConditionStatus.FALSE, "NoPartPresent")
    return QuarantineStatus(
        observed_generation=quarantine.generation,
        match_count=len(found),
        matches=_matches(quarantine, found, now=now) or None,
        conditions=[present, condition("Ready", status, reason, message)],
    )


def _not_understood(quarantine: Quarantine, ready: Condition) -> QuarantineStatus:
    before = quarantine.status
    others = [item for item in before.conditions or () if item.type != "Ready"]
    changed = {"observed_generation": quarantine.generation, "conditions": [*others, ready]}
    return before.model_copy(update=changed)


def _fault(quarantine: Quarantine) -> str:
    return (
        f"not understood: failed to parse {quarantine.fault}. GPUs and nodes keep the marks and the"
        " taint that they have of it, and get no others. If the quarantine was written for a later"
        " version of the operator, install that version; otherwise correct it, or delete it"
    )


def ready_of(status: QuarantineStatus) -> Condition | None:
    return next((item for item in status.conditions or () if item.type == "Ready"), None)


def _ready(
    quarantine: Quarantine, taints: TaintPlan | None, *, now: datetime
) -> tuple[ConditionStatus, str, str]:
    rule = QuarantineRule.of(quarantine)
    if rule.until is not None and not rule.is_active(now):
        words = f"ended at {format_time(rule.until)}: delete it, or set a later until"
        return ConditionStatus.FALSE, "Expired", words
    if rule.taint and taints is None:
        return (
            ConditionStatus.FALSE,
            "TaintsDisabled",
            "GPUs are marked and reported, but nodes get no taint, because taints are disabled: set"
            " QUARANTINE_TAINTS=true (quarantine.taints.enabled in the chart), or set action to"
            " Report",
        )
    if not rule.taint or taints is None:
        return ConditionStatus.TRUE, "InForce", ""
    halted = [node for node, asking in taints.halted.items() if rule.name in asking]
    if halted:
        return (
            ConditionStatus.FALSE,
            TAINTS_HALTED,
            f"no taint on {_listed(halted)}: nodes with the taint: {taints.tainted}, and"
            f" QUARANTINE_MAX_NODES allows {taints.limit}; increase it, or lift other quarantines",
        )
    waiting = [node for node, asking in taints.untouched.items() if rule.name in asking]
    words = f"no taint on {_listed(waiting)}: suspended or left alone" if waiting else ""
    return ConditionStatus.TRUE, "InForce", words


def _listed(nodes: Sequence[str], most: int = 20) -> str:
    named = ", ".join(nodes[:most])
    return f"{named} and {len(nodes) - most} more" if len(nodes) > most else named


def _matches(
    quarantine: Quarantine, found: Sequence[Found], *, now: datetime
) -> list[QuarantineMatch]:
    since = {
        (match.node, match.uuid, match.serial): match.since
        for match in quarantine.status.matches or ()
    }
    return [
        QuarantineMatch(
            node=node,
            uuid=gpu.uuid,
            serial=gpu.serial,
            since=since.get((node, gpu.uuid, gpu.serial), whole_seconds(now)),
        )
        for node, gpu in found[:MAX_QUARANTINE_MATCHES]
    ]
