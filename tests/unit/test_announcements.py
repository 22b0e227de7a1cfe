"""Which history entries become Events, and what the Events say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gpuid_operator.api.inventory import HistoryEntry, HistoryType
from gpuid_operator.plan.announcements import announcements, event_message

WARNINGS = {
    HistoryType.GPU_REMOVED,
    HistoryType.GPU_LOST,
    HistoryType.CHECK_FAILED,
    HistoryType.EXPECTATION_FAILED,
    HistoryType.GPU_QUARANTINED,
    HistoryType.DROPPED,
}
CHECKS = {HistoryType.CHECK_FAILED, HistoryType.CHECK_PASSED}
QUARANTINE = {HistoryType.GPU_QUARANTINED, HistoryType.GPU_RELEASED}
EXPECTATION = {HistoryType.EXPECTATION_FAILED, HistoryType.EXPECTATION_MET}


def entry(kind: HistoryType, **fields: Any) -> HistoryEntry:
    given = {"sequence": 1, "time": "2026-06-07T10:30:45Z", "type": kind}
    return HistoryEntry.model_validate(given | fields)


@pytest.mark.parametrize("kind", HistoryType)
@pytest.mark.parametrize("first_read", [False, True])
def test_each_type_but_sightings_becomes_an_event(kind: HistoryType, first_read: bool) -> None:
    events = announcements([entry(kind, serial="s1")], first_read=first_read)
    always = kind in CHECKS | QUARANTINE | EXPECTATION
    announced = kind is not HistoryType.SIGHTED and (always or not first_read)
    assert [event.type for event in events] == [kind] * announced
    assert [event.warning for event in events] == [kind in WARNINGS] * announced
    subject = "check result" if kind in CHECKS else "hardware change"
    subject = "quarantine" if kind in QUARANTINE else subject
    subject = "expectation" if kind in EXPECTATION else subject
    assert [event.log_message for event in events] == [f"recorded {subject}"] * announced


def test_entries_of_one_type_become_one_event() -> None:
    entries = [
        entry(HistoryType.GPU_REMOVED, serial="s1"),
        entry(HistoryType.GPU_ADDED, serial="s3"),
        entry(HistoryType.GPU_REMOVED, serial="s2"),
    ]
    events = announcements(entries, first_read=False)
    assert [(event.type, event.message) for event in events] == [
        (HistoryType.GPU_REMOVED, "serial s1; serial s2"),
        (HistoryType.GPU_ADDED, "serial s3"),
    ]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        pytest.param(
            [
                entry(
                    HistoryType.GPU_MOVED,
                    product="H100",
                    serial="s1",
                    uuid="GPU-1",
                    pci_address="5D",
                    from_="1B",
                    to="5D",
                )
            ],
            "H100 serial s1 GPU-1 at 5D: from 1B to 5D",
            id="a GPU moved",
        ),
        pytest.param(
            [entry(HistoryType.DRIVER_CHANGED, product="H100", from_="570", to="580")],
            "from 570 to 580",
            id="the product alone names no GPU",
        ),
        pytest.param(
            [entry(HistoryType.HEALTH_CHANGED, uuid="GPU-1", to="failed")],
            "GPU-1: from none to failed",
            id="from nothing",
        ),
        pytest.param(
            [entry(HistoryType.GPU_CHANGED, uuid="GPU-1", from_="a")],
            "GPU-1: from a to none",
            id="to nothing",
        ),
        pytest.param(
            [entry(HistoryType.DROPPED, message="3 entries dropped", from_="1", to="3")],
            "3 entries dropped",
            id="a message says it all",
        ),
        pytest.param(
            [entry(HistoryType.GPU_QUARANTINED, uuid="GPU-1", to="rma-1", message="Xid 79")],
            "GPU-1: quarantine rma-1: Xid 79",
            id="into quarantine",
        ),
        pytest.param(
            [entry(HistoryType.GPU_RELEASED, uuid="GPU-1", from_="rma-1")],
            "GPU-1: quarantine rma-1",
            id="out of quarantine, for a reason that is not known any more",
        ),
        pytest.param([entry(HistoryType.NODE_DEPARTED, machine="i-1")], "machine i-1", id="node"),
        pytest.param([entry(HistoryType.NODE_DEPARTED)], "NodeDeparted", id="nothing is known"),
    ],
)
def test_an_event_says_which_gpu_and_what(entries: Sequence[HistoryEntry], words: str) -> None:
    assert event_message(entries) == words
