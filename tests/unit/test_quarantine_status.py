"""The status of a quarantine: its conditions row by row, and its matches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpuid_operator.api.meta import MAX_QUARANTINE_MATCHES
from gpuid_operator.api.quarantine import Quarantine, QuarantineStatus
from gpuid_operator.plan.quarantine import Identifiers
from gpuid_operator.plan.quarantine_status import Found, quarantine_status, ready_of
from gpuid_operator.plan.quarantine_taints import TaintPlan

NOW = datetime(2026, 6, 7, 10, 30, 45, 250_000, tzinfo=UTC)
PAST, FUTURE = "2026-06-07T10:30:45Z", "2026-06-07T10:30:46Z"
FREE = TaintPlan()
HALTED = TaintPlan(halted={"n1": ("q",), "n2": ("other",)}, tainted=3, limit=3)
WAITING = TaintPlan(untouched={"n1": ("other", "q")})


def quarantine(status: QuarantineStatus | None = None, **spec: Any) -> Quarantine:
    given = {"parts": [{"serial": "1"}], "reason": "Xid 79"} | spec
    body = {"metadata": {"name": "q", "generation": 3}, "spec": given}
    return Quarantine.from_object(body | {"status": status.to_json() if status else {}})


def found(*gpus: tuple[str, str, str]) -> list[Found]:
    return [(node, Identifiers(uuid, serial, None)) for node, uuid, serial in gpus]


def condition(status: QuarantineStatus, kind: str) -> tuple[str, str, str]:
    [item] = [item for item in status.conditions or () if item.type == kind]
    assert item.observed_generation == 3
    return item.status.value, item.reason, item.message


@pytest.mark.parametrize(
    ("spec", "taints", "ready"),
    [
        ({"until": PAST, "action": "Taint"}, None, ("False", "Expired")),
        ({"until": FUTURE}, None, ("True", "InForce")),
        ({"action": "Taint"}, None, ("False", "TaintsDisabled")),
        ({"action": "Taint"}, HALTED, ("False", "TaintsHalted")),
        ({"action": "Taint"}, FREE, ("True", "InForce")),
        ({"action": "Taint"}, WAITING, ("True", "InForce")),
        ({"action": "Report"}, HALTED, ("True", "InForce")),
        ({"action": "Evict", "until": PAST}, None, ("False", "NotUnderstood")),
        ({}, None, ("True", "InForce")),
    ],
)
def test_ready_says_whether_it_does_what_it_asks_for(
    spec: dict[str, Any], taints: TaintPlan | None, ready: tuple[str, str]
) -> None:
    made = quarantine_status(quarantine(**spec), found=[], taints=taints, now=NOW)
    assert condition(made, "Ready")[:2] == ready
    assert made.observed_generation == 3


@pytest.mark.parametrize(
    ("spec", "taints", "words"),
    [
        ({"until": PAST}, None, "ended at 2026-06-07T10:30:45Z: delete it, or set a later until"),
        ({"action": "Taint"}, HALTED, "no taint on n1: nodes with the taint: 3, and"),
        ({"action": "Taint"}, HALTED, "QUARANTINE_MAX_NODES allows 3;"),
        ({"action": "Taint"}, WAITING, "no taint on n1: suspended or left alone"),
        ({"action": "Taint"}, None, "QUARANTINE_TAINTS=true"),
        ({"action": "Evict"}, None, "failed to parse spec.action: "),
        ({"action": "Evict"}, None, "install that version; otherwise correct it, or delete it"),
    ],
)
def test_the_message_says_why_and_what_to_do(
    spec: dict[str, Any], taints: TaintPlan | None, words: str
) -> None:
    made = quarantine_status(quarantine(**spec), found=[], taints=taints, now=NOW)
    assert words in condition(made, "Ready")[2]


def test_a_long_list_of_nodes_is_cut() -> None:
    halted = TaintPlan(halted={f"n{number:02}": ("q",) for number in range(25)}, limit=1)
    made = quarantine_status(quarantine(action="Taint"), found=[], taints=halted, now=NOW)
    assert "n18, n19 and 5 more: nodes with the taint: 0" in condition(made, "Ready")[2]


def test_present_names_the_nodes() -> None:
    gpus = found(("n1", "GPU-a", "1"), ("n1", "GPU-b", "1"), ("n2", "GPU-c", "1"))
    made = quarantine_status(quarantine(), found=gpus, taints=None, now=NOW)
    assert made.match_count == 3
    assert condition(made, "Present") == (
        "True",
        "PartPresent",
        "GPUs in this cluster: 3, on n1, n2",
    )
    none = quarantine_status(quarantine(), found=[], taints=None, now=NOW)
    assert (none.match_count, none.matches) == (0, None)
    assert condition(none, "Present") == ("False", "NoPartPresent", "")


def test_a_match_keeps_its_since_while_it_stays() -> None:
    first = quarantine_status(quarantine(), found=found(("n1", "GPU-a", "1")), taints=None, now=NOW)
    gpus = found(("n1", "GPU-a", "1"), ("n2", "GPU-b", "1"))
    later = NOW + timedelta(hours=1)
    second = quarantine_status(quarantine(first), found=gpus, taints=None, now=later)
    assert [match.since for match in second.matches or ()] == [
        NOW.replace(microsecond=0),
        later.replace(microsecond=0),
    ]
    third = quarantine_status(quarantine(second), found=gpus[1:], taints=None, now=later)
    again = quarantine_status(quarantine(third), found=gpus, taints=None, now=later)
    assert [match.since for match in again.matches or ()] == [later.replace(microsecond=0)] * 2


def test_the_same_facts_give_the_same_status_later() -> None:
    gpus = found(("n1", "GPU-a", "1"))
    first = quarantine_status(quarantine(), found=gpus, taints=None, now=NOW)
    later = NOW + timedelta(days=1)
    assert quarantine_status(quarantine(first), found=gpus, taints=None, now=later) == first


def test_one_that_cannot_be_parsed_keeps_what_is_known_of_its_parts() -> None:
    before = quarantine_status(
        quarantine(), found=found(("n1", "GPU-a", "1")), taints=None, now=NOW
    )
    broken = quarantine(before, action="Evict")
    broken = broken.model_copy(update={"generation": 4})
    after = quarantine_status(broken, found=[], taints=None, now=NOW)
    assert (after.match_count, after.matches) == (1, before.matches)
    assert after.observed_generation == 4
    assert after.conditions is not None
    present, ready = after.conditions
    assert (present.type, present.status, present.observed_generation) == ("Present", "True", 3)
    assert (ready.type, ready.reason, ready.observed_generation) == ("Ready", "NotUnderstood", 4)
    again = broken.model_copy(update={"status": after})
    later = NOW + timedelta(days=1)
    assert quarantine_status(again, found=[], taints=None, now=later) == after


def test_matches_are_bounded_and_their_number_is_not() -> None:
    gpus = found(*((f"n{number:04}", f"GPU-{number}", "1") for number in range(300)))
    made = quarantine_status(quarantine(), found=gpus, taints=None, now=NOW)
    assert made.match_count == 300
    assert len(made.matches or ()) == MAX_QUARANTINE_MATCHES
    assert QuarantineStatus.model_validate(made.to_json()) == made


def test_a_status_without_conditions_is_not_ready() -> None:
    assert ready_of(QuarantineStatus()) is None
