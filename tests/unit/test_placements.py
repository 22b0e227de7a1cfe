"""Where a GPU is and was, from histories."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuid_operator.api.inventory import (
    GPU,
    GPUState,
    HistoryEntry,
    HistoryType,
    InventoryState,
    InventoryStatus,
    NodeInfo,
    Source,
)
from gpuid_operator.plan.identity import key
from gpuid_operator.plan.placement import Placement, canonical, entries_of, newest_first
from gpuid_operator.plan.placements import placements
from gpuid_operator.plan.smi import Reading
from gpuid_operator.plan.status import after_departure, after_read
from gpuid_operator.plan.status_change import StatusContext
from tests.support.node_model import NodeModel
from tests.support.strategies import EVENTS, Event, models

START = datetime(2026, 6, 7, 10, 0, tzinfo=UTC)
A, B = "00000000:01:00.0", "00000000:02:00.0"


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def entry(minute: int, kind: HistoryType, uuid: str | None = "GPU-1", **facts: Any) -> HistoryEntry:
    given: dict[str, Any] = {"uuid": uuid, "machine": "i-1"}
    if uuid or "serial" in facts:
        given |= {"serial": "S1", "pci_address": A}
    return HistoryEntry(sequence=minute + 1, time=at(minute), type=kind, **(given | facts))


def status(*history: HistoryEntry, **facts: Any) -> InventoryStatus:
    given: dict[str, Any] = {
        "state": InventoryState.PRESENT,
        "node": NodeInfo(name="n", machine="i-1"),
        "gpus": [],
        "history": list(history),
    }
    return InventoryStatus(**(given | facts))


def spans(
    found: list[Placement],
) -> list[tuple[str | None, datetime | None, datetime | None, bool]]:
    return [
        (placement.machine, placement.since, placement.until, placement.present)
        for placement in found
    ]


GPU_1 = GPU(uuid="GPU-1", serial="S1", pci_address=A)


def test_a_gpu_that_was_added_is_there_since() -> None:
    (placement,) = placements("n", status(entry(1, HistoryType.GPU_ADDED), gpus=[GPU_1]))
    assert placement == Placement(
        node="n",
        machine="i-1",
        uuid="GPU-1",
        serial="S1",
        pci_address=A,
        since=at(1),
        present=True,
        state=GPUState.OK,
    )


def test_each_time_that_a_gpu_was_there_is_a_placement() -> None:
    found = placements(
        "n",
        status(
            entry(1, HistoryType.GPU_ADDED),
            entry(2, HistoryType.GPU_REMOVED),
            entry(3, HistoryType.GPU_ADDED),
            entry(4, HistoryType.GPU_REMOVED),
            entry(5, HistoryType.GPU_ADDED),
            gpus=[GPU_1],
        ),
    )
    assert spans(newest_first(found)) == [
        ("i-1", at(5), None, True),
        ("i-1", at(3), at(4), False),
        ("i-1", at(1), at(2), False),
    ]


@pytest.mark.parametrize(
    ("history", "gpus", "expected"),
    [
        pytest.param(
            [entry(4, HistoryType.GPU_REMOVED)],
            [],
            [("i-1", None, at(4), False)],
            id="the arrival is not in history any more",
        ),
        pytest.param([], [GPU_1], [("i-1", None, None, True)], id="nothing is in history"),
        pytest.param(
            [entry(1, HistoryType.GPU_ADDED)],
            [],
            [("i-1", at(1), None, False)],
            id="the removal was dropped",
        ),
        pytest.param(
            [entry(1, HistoryType.GPU_ADDED), entry(5, HistoryType.GPU_ADDED)],
            [GPU_1],
            [("i-1", at(1), None, False), ("i-1", at(5), None, True)],
            id="a removal between two arrivals was dropped",
        ),
        pytest.param(
            [entry(3, HistoryType.HEALTH_CHANGED), entry(4, HistoryType.GPU_REMOVED)],
            [],
            [("i-1", None, at(4), False)],
            id="its health is the first that is known of it",
        ),
        pytest.param(
            [entry(1, HistoryType.GPU_ADDED), entry(4, HistoryType.GPU_LOST)],
            [GPU_1],
            [("i-1", at(1), None, True)],
            id="a lost GPU remains",
        ),
        pytest.param(
            [entry(1, HistoryType.GPU_ADDED), entry(2, HistoryType.NODE_RETURNED, None)],
            [],
            [("i-1", at(1), None, False)],
            id="a node cannot return with a GPU that has not been added again",
        ),
    ],
)
def test_what_history_does_not_have_is_unknown(
    history: list[HistoryEntry],
    gpus: list[GPU],
    expected: list[tuple[str, datetime | None, datetime | None, bool]],
) -> None:
    assert spans(placements("n", status(*history, gpus=gpus))) == expected


def test_behind_another_machine_a_gpu_begins_another_placement() -> None:
    found = placements(
        "n",
        status(
            entry(1, HistoryType.GPU_ADDED),
            entry(1, HistoryType.GPU_ADDED, "GPU-2", pci_address=B),
            entry(5, HistoryType.MACHINE_CHANGED, None, machine="i-2", to="i-2"),
            entry(5, HistoryType.GPU_REMOVED, "GPU-2", pci_address=B),
            gpus=[GPU_1],
            node=NodeInfo(name="n", machine="i-2"),
        ),
    )
    assert spans([placement for placement in found if placement.uuid == "GPU-1"]) == [
        ("i-1", at(1), at(5), False),
        ("i-2", at(5), None, True),
    ]
    assert spans([placement for placement in found if placement.uuid == "GPU-2"]) == [
        ("i-1", at(1), at(5), False)
    ]


def test_another_machine_of_which_history_says_nothing_has_no_time() -> None:
    found = placements(
        "n",
        status(
            entry(1, HistoryType.GPU_ADDED),
            gpus=[GPU_1],
            node=NodeInfo(name="n", machine="i-2"),
        ),
    )
    assert spans(found) == [("i-1", at(1), None, False), ("i-2", None, None, True)]


def test_a_machine_without_provider_id_is_no_other_machine() -> None:
    added = entry(1, HistoryType.GPU_ADDED, machine="na")
    assert spans(placements("n", status(added, gpus=[GPU_1]))) == [("i-1", at(1), None, True)]


def test_another_chassis_is_another_placement() -> None:
    moved = entry(4, HistoryType.GPU_MOVED, chassis="C2", from_="C1", to="C2")
    here = GPU(uuid="GPU-1", serial="S1", pci_address=A, chassis_serial="C2")
    for history in [moved], [entry(1, HistoryType.GPU_ADDED, chassis="C1"), moved]:
        found = placements("n", status(*history, gpus=[here]))
        assert [(placement.chassis, placement.until, placement.present) for placement in found] == [
            ("C1", at(4), False),
            ("C2", None, True),
        ]


def test_another_address_is_the_same_placement() -> None:
    found = placements(
        "n",
        status(
            entry(1, HistoryType.GPU_ADDED),
            entry(4, HistoryType.GPU_MOVED, pci_address=B, from_=A, to=B),
            gpus=[GPU(uuid="GPU-1", serial="S1", pci_address=B)],
        ),
    )
    assert spans(found) == [("i-1", at(1), None, True)]
    assert found[0].pci_address == B


def test_a_gpu_is_found_under_the_serial_that_it_had() -> None:
    changed = entry(4, HistoryType.GPU_CHANGED, serial="S9", from_="S1", to="S9")
    here = GPU(uuid="GPU-1", serial="S9", pci_address=A)
    for history in [changed], [entry(1, HistoryType.GPU_ADDED), changed]:
        (placement,) = placements("n", status(*history, gpus=[here]))
        assert (placement.serial, placement.former_serials) == ("S9", ("S1",))
        assert placement.is_of("S1")
        assert placement.is_of("S9")


def test_a_gpu_whose_identity_was_read_later_was_there_before() -> None:
    here = GPU(uuid="GPU-1", serial="S1", pci_address=A)
    found = placements(
        "n",
        status(
            entry(1, HistoryType.GPU_ADDED, None, pci_address=A),
            entry(2, HistoryType.GPU_LOST, None, pci_address=A),
            entry(5, HistoryType.GPU_ADDED),
            gpus=[here],
        ),
    )
    assert spans(found) == [("i-1", at(1), None, True)]
    assert found[0].uuid == "GPU-1"


def test_twins_share_a_serial_and_have_placements_of_their_own() -> None:
    twin = GPU(uuid="GPU-2", serial="S1", pci_address=B)
    found = placements(
        "n",
        status(
            entry(1, HistoryType.GPU_ADDED),
            entry(1, HistoryType.GPU_ADDED, "GPU-2", pci_address=B),
            entry(7, HistoryType.GPU_REMOVED),
            gpus=[twin],
        ),
    )
    assert [placement.uuid for placement in found if placement.is_of("S1")] == ["GPU-1", "GPU-2"]
    assert [placement.present for placement in found] == [False, True]


def test_of_a_departed_node_every_gpu_left_with_it() -> None:
    twin = GPU(uuid="GPU-2", serial="S1", pci_address=B)
    found = placements(
        "n",
        status(
            entry(1, HistoryType.GPU_ADDED),
            entry(5, HistoryType.GPU_REMOVED),
            entry(5, HistoryType.NODE_DEPARTED, None),
            gpus=[GPU_1, twin],
            state=InventoryState.DEPARTED,
        ),
    )
    assert spans(found) == [("i-1", at(1), at(5), False), ("i-1", None, at(5), False)]


def test_identifiers_are_taken_as_people_paste_them() -> None:
    uuid = "GPU-25e04bdf-6a27-0a2d-f989-a9228a03f373"
    assert canonical(" 25E04BDF-6A27-0A2D-F989-A9228A03F373\n") == uuid
    assert canonical(uuid.upper()) == uuid
    assert canonical("1652823054567") == "1652823054567"
    placement = Placement(node="n", uuid=uuid, serial="16/52", chassis="C")
    assert all(map(placement.is_of, (uuid, "16/52", "16-52", "C")))
    assert not any(map(placement.is_of, ("", "16", "c", "na")))


def test_entries_of_a_gpu_are_those_of_its_uuids() -> None:
    history = [
        entry(1, HistoryType.GPU_ADDED),
        entry(1, HistoryType.GPU_ADDED, "GPU-2", serial="S2", pci_address=B),
        entry(2, HistoryType.DRIVER_CHANGED, None),
        entry(3, HistoryType.GPU_CHANGED, serial="S9", from_="S1", to="S9"),
        entry(4, HistoryType.GPU_REMOVED, "GPU-2", serial="S2", pci_address=B),
    ]
    known = status(*history, gpus=[GPU(uuid="GPU-1", serial="S9", pci_address=A)])
    found = placements("n", known)
    for identifier in "S1", "S9", "GPU-1":
        assert entries_of(identifier, known, found) == [history[0], history[3]]
    assert entries_of("S2", known, found) == [history[1], history[4]]
    assert entries_of("S3", known, found) == []


def test_entries_of_a_gpu_without_uuid_are_those_of_its_serial() -> None:
    history = [
        entry(1, HistoryType.GPU_ADDED, None, serial="S1", pci_address=A),
        entry(2, HistoryType.GPU_REMOVED, None, serial="S1", pci_address=A),
        entry(2, HistoryType.GPU_ADDED, None, serial="S1", pci_address=B),
        entry(3, HistoryType.NODE_DEPARTED, None),
    ]
    known = status(*history, gpus=[GPU(serial="S1", pci_address=B)])
    assert entries_of("S1", known, placements("n", known)) == history[:3]


@given(models(InventoryStatus))
def test_whatever_a_status_holds_each_gpu_that_is_there_has_one_present_placement(
    drawn: InventoryStatus,
) -> None:
    found = placements("n", drawn)
    here = [] if drawn.state is InventoryState.DEPARTED else drawn.gpus or []
    present = [placement for placement in found if placement.present]
    assert Counter(
        placement.pci_address for placement in present if placement.pci_address
    ) >= Counter(gpu.pci_address for gpu in here if gpu.pci_address)
    assert len(present) == len(here)
    assert all(placement.until is None for placement in present)
    assert sorted(map(repr, newest_first(found))) == sorted(map(repr, found))
    assert {entry.sequence for entry in entries_of("", drawn, found)} <= {
        entry.sequence for entry in drawn.history or ()
    }


@given(EVENTS)
def test_in_any_world_the_placements_are_those_of_its_gpus(events: list[Event]) -> None:
    known = NodeModel().run(events)
    found = placements("n", known)
    there = known.state is InventoryState.PRESENT
    assert sorted(placement.gpu for placement in found if placement.present) == sorted(
        map(key, known.gpus or () if there else ())
    )
    for placement in found:
        assert (
            placement.since is None or placement.until is None or placement.since <= placement.until
        )
        if placement.present:
            # The bounds of history never give up the arrival of what is there.
            assert placement.since is not None


NODES = ("n0", "n1")
Step = tuple[str, tuple[int | None, int | None], bool, bool]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(NODES),
        st.tuples(st.none() | st.integers(0, 3), st.none() | st.integers(0, 3)).filter(
            lambda slots: slots[0] != slots[1] or slots[0] is None
        ),
        st.booleans(),
        st.booleans(),
    ),
    max_size=12,
)


@given(STEPS)
def test_the_placements_are_the_truth_as_long_as_history_holds_it(steps: list[Step]) -> None:
    """Cards are put into two nodes that reboot, become another machine or go at each step; the
    truth is kept in books beside the operator's."""
    inventories = dict.fromkeys(NODES, InventoryStatus())
    machines = dict.fromkeys(NODES, 0)
    there: dict[tuple[str, int], tuple[str, datetime]] = {}
    truth: list[tuple[str, str, int, datetime | None, datetime | None]] = []
    for minute, (node, slots, other_machine, departs) in enumerate(steps):
        now = at(minute)
        before = inventories[node]
        machines[node] += other_machine
        machine = f"{node}-i-{machines[node]}"
        left = before.node.machine if before.node else machine
        gone = departs or before.state is InventoryState.DEPARTED
        for (where, known), (_, since) in list(there.items()):
            if where == node and (gone or known not in slots or left != machine):
                truth.append((node, left, known, since, now))
                del there[where, known]
        if departs:
            machines[node] -= other_machine
            if before.state is not None:
                inventories[node] = after_departure(before, now=now, context=StatusContext()).status
            continue
        cards = [(address, card) for address, card in zip((A, B), slots, strict=True)]
        for slot in slots:
            if slot is not None:
                there.setdefault((node, slot), (machine, now))
        reading = Reading(
            gpus=tuple(
                GPU(uuid=f"GPU-{card}", serial=f"S{card // 2}", pci_address=address)
                for address, card in cards
                if card is not None
            ),
            driver_version="570",
            cuda_version=None,
        )
        inventories[node] = after_read(
            before,
            reading,
            source=Source(namespace="ns", pod="p", container="c", container_id=str(minute)),
            node=NodeInfo(
                name=node, provider_id=machine, machine=machine, uid=node, boot_id=str(minute)
            ),
            now=now,
            context=StatusContext(),
        ).status
    expected = truth + [
        (node, machine, card, since, None) for (node, card), (machine, since) in there.items()
    ]
    found = [
        (node, placement.machine, int((placement.uuid or "")[4:]), placement.since, placement.until)
        for node in NODES
        for placement in placements(node, inventories[node])
    ]
    assert Counter(found) == Counter(expected)


def test_a_removal_from_another_machine_ends_a_placement_there() -> None:
    found = placements(
        "n",
        status(
            entry(1, HistoryType.GPU_ADDED),
            entry(3, HistoryType.GPU_REMOVED, machine="i-2"),
            node=NodeInfo(name="n", machine="i-2"),
        ),
    )
    assert spans(newest_first(found)) == [
        ("i-2", None, at(3), False),
        ("i-1", at(1), None, False),
    ]
