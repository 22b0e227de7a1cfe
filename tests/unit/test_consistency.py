"""A status that somebody edited by hand is made consistent before anything is decided from it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from gpuid_operator.api.inventory import HistoryEntry, InventoryStatus
from gpuid_operator.plan.consistency import MAX_NUMBER, consistent
from tests.support.strategies import models

LARGEST = 2**63 - 1


def entry(sequence: int) -> HistoryEntry:
    return HistoryEntry.model_validate(
        {"sequence": sequence, "time": "2026-06-07T10:30:45Z", "type": "GPUAdded"}
    )


def status(*sequences: int, **fields: Any) -> InventoryStatus:
    return InventoryStatus(history=[entry(number) for number in sequences], **fields)


def numbers(status: InventoryStatus) -> list[int]:
    return [entry.sequence for entry in status.history or ()]


def test_what_the_operator_wrote_stays_the_same_object() -> None:
    sink = {"name": "a", "type": "http", "deliveredSequence": 2}
    checks = [{"name": "c", "passed": True, "transitions": 3, "recorded": 2}]
    written = InventoryStatus.model_validate(
        {**status(1, 3, sequence=4).to_json(), "sinks": [sink], "checks": checks}
    )
    for known in (InventoryStatus(), written):
        assert consistent(known) is known


@pytest.mark.parametrize(
    ("edited", "sequence", "history"),
    [
        (status(1, 2, sequence=0), 2, [1, 2]),
        (status(1, 2, sequence=-7), 2, [1, 2]),
        (status(1, 2, sequence=LARGEST), 2, [1, 2]),
        (status(sequence=LARGEST), 0, []),
        (status(sequence=12), 12, []),
        (status(2, 1, 2, sequence=2), 2, [1, 2]),
        (status(1, LARGEST, sequence=2), 2, [1]),
    ],
)
def test_the_sequence_is_that_of_the_newest_entry_or_more(
    edited: InventoryStatus, sequence: int, history: list[int]
) -> None:
    made = consistent(edited)
    assert (made.sequence, numbers(made)) == (sequence, history)


@pytest.mark.parametrize(("edited", "delivered"), [(LARGEST, 2), (-1, 0), (3, 2), (1, 1)])
def test_a_cursor_is_not_ahead_of_the_history(edited: int, delivered: int) -> None:
    sinks = [{"name": "a", "type": "http", "deliveredSequence": edited}]
    known = status(1, 2, sequence=2).to_json()
    made = consistent(InventoryStatus.model_validate({**known, "sinks": sinks})).sinks or []
    assert [sink.delivered_sequence for sink in made] == [delivered]


@pytest.mark.parametrize(
    ("edited", "made"),
    [
        ((LARGEST, 1), (0, 0)),
        ((-1, 0), (0, 0)),
        ((2, LARGEST), (2, 2)),
        ((2, -1), (2, 2)),
        ((None, 4), (None, 0)),
        ((None, None), (None, None)),
        ((3, 1), (3, 1)),
    ],
)
def test_no_more_transitions_of_a_check_are_recorded_than_there_are(
    edited: tuple[int | None, int | None], made: tuple[int | None, int | None]
) -> None:
    check = {"name": "c", "transitions": edited[0], "recorded": edited[1]}
    found = consistent(InventoryStatus.model_validate({"checks": [check]})).checks or []
    assert [(one.transitions, one.recorded) for one in found] == [made]


@given(models(InventoryStatus))
def test_any_status_can_go_on(edited: InventoryStatus) -> None:
    made = consistent(edited)
    assert consistent(made) is made
    assert numbers(made) == sorted(set(numbers(made)))
    assert max([0, *numbers(made)]) <= made.sequence <= MAX_NUMBER
    assert all(0 <= sink.delivered_sequence <= made.sequence for sink in made.sinks or ())
