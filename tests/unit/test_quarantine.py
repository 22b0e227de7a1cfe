"""Which GPUs are in quarantine, and what the status of their node says."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from gpuid_operator.api.inventory import (
    GPU,
    ConditionStatus,
    ConditionType,
    GPUState,
    HistoryEntry,
    HistoryType,
)
from gpuid_operator.api.meta import MAX_QUARANTINES_PER_GPU
from gpuid_operator.api.quarantine import Quarantine
from gpuid_operator.api.values import format_time
from gpuid_operator.plan import status
from gpuid_operator.plan.conditions import find
from gpuid_operator.plan.quarantine import QuarantineIndex, QuarantineRule
from gpuid_operator.plan.status_change import StatusContext
from tests.support.read_node import NOW, P1, P2, A, B, ReadNode, but, known, types

TWIN = but(B, serial=A.serial)
UNREAD = GPU(pci_address=P1, state=GPUState.UNKNOWN)


def rule(name: str, *parts: dict[str, str], **spec: Any) -> QuarantineRule:
    given = {"parts": list(parts), "reason": f"why {name}"} | spec
    body = {"metadata": {"name": name}, "spec": given}
    return QuarantineRule.of(Quarantine.from_object(body))


def by_uuid(name: str, gpu: GPU = A, **spec: Any) -> QuarantineRule:
    return rule(name, {"uuid": gpu.uuid or ""}, **spec)


def index(*rules: QuarantineRule, unreadable: tuple[str, ...] = ()) -> QuarantineIndex:
    return QuarantineIndex(rules, unreadable=unreadable)


def context(*rules: QuarantineRule, unreadable: tuple[str, ...] = ()) -> StatusContext:
    return StatusContext(generation=1, quarantines=index(*rules, unreadable=unreadable))


UNKNOWN = StatusContext(generation=1)


class Node(ReadNode):
    """A node whose quarantines change."""

    def under(self, given: StatusContext) -> list[HistoryEntry]:
        """What it adds to the history that other quarantines are in force."""
        self.context = given
        self.now += timedelta(seconds=1)
        change = status.reconsidered(self.status, now=self.now, context=given)
        self.status = change.status
        return list(change.entries)

    @property
    def marks(self) -> list[list[str] | None]:
        return [gpu.quarantines for gpu in self.status.gpus or ()]

    @property
    def quarantined(self) -> tuple[str, str, str] | None:
        found = find(self.status.conditions, ConditionType.QUARANTINED)
        return (found.status.value, found.reason, found.message) if found else None


def node(*rules: QuarantineRule, gpus: tuple[GPU, ...] = (A, B)) -> Node:
    made = Node(context=context(*rules))
    made.read(*gpus)
    return made


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ({"uuid": "GPU-a"}, (["q"], [])),
        ({"serial": "1650000000001"}, (["q"], ["q"])),
        ({"chassis": "1821"}, (["q"], ["q"])),
        ({"uuid": "GPU-A"}, ([], [])),
        ({"serial": "GPU-a"}, ([], [])),
        ({"chassis": "1650000000001"}, ([], [])),
        ({"serial": "1650000000009"}, ([], [])),
    ],
)
def test_a_part_is_found_by_the_identifier_that_the_status_shows(
    part: dict[str, str], names: tuple[list[str], list[str]]
) -> None:
    found = index(rule("q", part))
    assert tuple(found.names(gpu, now=NOW) for gpu in (A, TWIN)) == names


@pytest.mark.parametrize(
    ("name", "spec", "fault"),
    [
        ("q", {"parts": [{"uuid": "gpu-a"}]}, "spec.parts.0.uuid: "),
        ("q", {"action": "Evict"}, "spec.action: "),
        ("q", {"until": "0001-01-01T00:00:00+01:00"}, "spec.until: "),
        ("q", {"until": "9999-12-31T23:59:59-01:00"}, "spec.until: "),
        ("q", {"until": "0000-01-01T00:00:00Z"}, "spec.until: "),
        ("q", {"until": "2027-01-01T00:00:00+24:00"}, "spec.until: "),
        ("q" * 64, {}, "name: "),
    ],
)
def test_a_quarantine_that_cannot_be_parsed_says_which_field(
    name: str, spec: dict[str, Any], fault: str
) -> None:
    given = {"parts": [{"uuid": "GPU-a"}], "reason": "x"} | spec
    found = Quarantine.from_object({"metadata": {"name": name}, "spec": given})
    assert found.fault.startswith(fault)
    assert found.spec.parts == []


def test_a_gpu_without_an_identifier_is_found_by_none() -> None:
    bare = but(A, uuid=None, serial=None, chassis_serial=None)
    assert index(by_uuid("q"), rule("r", {"serial": "None"})).names(bare, now=NOW) == []


def test_one_of_several_parts_is_enough_and_names_are_sorted() -> None:
    many = rule("z", {"uuid": "GPU-x"}, {"uuid": "GPU-a"}, {"serial": "1650000000001"})
    assert index(many, by_uuid("a")).names(A, now=NOW) == ["a", "z"]


@pytest.mark.parametrize("until", ["2026-06-07T10:30:46Z", "2026-06-07T12:30:46+02:00"])
def test_a_quarantine_ends_at_its_until(until: str) -> None:
    found = index(by_uuid("q", until=until), by_uuid("r"))
    end = NOW + timedelta(seconds=1)
    assert found.names(A, now=NOW) == ["q", "r"]
    assert found.names(A, now=end) == ["r"]
    assert (found.next_end(NOW), found.next_end(end)) == (end, None)


@pytest.mark.parametrize("until", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.9Z"])
def test_an_until_at_the_edge_can_be_shown(until: str) -> None:
    found = by_uuid("q", until=until).until
    assert found is not None
    assert format_time(found) == f"{until[:19]}Z"


def test_an_until_without_a_time_zone_is_in_utc() -> None:
    assert by_uuid("q", until=datetime(2026, 6, 7)).until == datetime.fromisoformat(
        "2026-06-07T00:00:00Z"
    )


class TestMarks:
    """`gpus[].quarantines` and the entries, row by row of the table."""

    def test_a_part_that_is_read_gets_the_name_in_the_same_write(self) -> None:
        fresh = Node(context=context(by_uuid("q")))
        entries = fresh.read(A, B)
        assert types(entries) == ["GPUAdded", "GPUAdded", "GPUQuarantined"]
        assert fresh.marks == [["q"], None]
        last = entries[-1]
        assert (last.uuid, last.serial, last.pci_address) == (A.uuid, A.serial, P1)
        assert (last.from_, last.to, last.message) == (None, "q", "why q")
        assert last.source == "gpu-operator/plugin-x"

    def test_a_quarantine_that_is_created_needs_no_read(self) -> None:
        made = node()
        (entry,) = made.under(context(by_uuid("q", B)))
        assert (entry.type, entry.uuid, entry.to) == (HistoryType.GPU_QUARANTINED, B.uuid, "q")
        assert made.marks == [None, ["q"]]

    def test_a_quarantine_that_is_deleted_releases(self) -> None:
        made = node(by_uuid("q"))
        (entry,) = made.under(context())
        assert (entry.type, entry.uuid) == (HistoryType.GPU_RELEASED, A.uuid)
        assert (entry.from_, entry.to, entry.message) == ("q", None, "why q")
        assert made.marks == [None, None]

    def test_a_quarantine_that_ends_releases(self) -> None:
        given = by_uuid("q", until=(NOW + timedelta(seconds=3)).isoformat())
        made = node(given)
        assert made.under(context(given)) == []
        assert types(made.under(context(given))) == ["GPUReleased"]

    def test_a_part_that_is_taken_from_the_quarantine_is_released(self) -> None:
        made = node(rule("q", {"uuid": "GPU-a"}, {"uuid": "GPU-b"}))
        (entry,) = made.under(context(by_uuid("q", B)))
        assert (entry.type, entry.uuid) == (HistoryType.GPU_RELEASED, A.uuid)
        assert made.marks == [None, ["q"]]

    def test_a_quarantine_that_cannot_be_parsed_keeps_what_it_has(self) -> None:
        made = node(by_uuid("q"))
        assert made.under(context(unreadable=("q",))) == []
        assert made.read(A, B) == []
        assert made.marks == [["q"], None]
        made = node()
        assert made.under(context(unreadable=("q",))) == []
        assert made.marks == [None, None]

    def test_quarantines_that_are_not_known_change_nothing(self) -> None:
        made = node(by_uuid("q"))
        before = made.quarantined
        assert made.under(UNKNOWN) == []
        assert made.read(A, B) == []
        assert (made.marks, made.quarantined) == ([["q"], None], before)
        assert types(made.read(A, B, but(B, uuid="GPU-c", pci_address=P2))) != []

    def test_a_part_that_left_is_removed_and_not_released(self) -> None:
        made = node(by_uuid("q"))
        assert types(made.read(but(A, uuid="GPU-c"), B)) == ["GPURemoved", "GPUAdded"]
        assert made.marks == [None, None]
        assert made.quarantined == (
            "False",
            "Released",
            "no GPU of the node is in quarantine any more",
        )

    def test_a_part_that_left_while_quarantines_are_not_known_takes_its_condition_along(
        self,
    ) -> None:
        made = node(by_uuid("q"))
        made.under(UNKNOWN)
        made.read(but(A, uuid="GPU-c"), B)
        assert made.quarantined is not None
        assert made.quarantined[:2] == ("False", "Released")

    def test_a_part_that_is_missing_for_the_moment_keeps_the_name(self) -> None:
        made = node(by_uuid("q"))
        assert made.read(B) == []
        assert made.marks == [["q"], None]

    def test_a_part_that_moves_or_cannot_be_read_keeps_the_name(self) -> None:
        made = node(by_uuid("q"))
        assert types(made.read(UNREAD, B)) == ["HealthChanged"]
        moved = types(made.read(but(B, pci_address=P1), but(A, pci_address=P2)))
        assert sorted(moved) == ["GPUMoved", "GPUMoved", "HealthChanged"]
        assert made.marks == [None, ["q"]]

    def test_another_serial_under_the_same_uuid_is_judged_again(self) -> None:
        made = node(rule("q", {"serial": "1650000000001"}))
        assert types(made.read(but(A, serial="1650000000003"), B)) == ["GPUChanged", "GPUReleased"]

    def test_a_departed_node_has_none_and_history_remembers(self) -> None:
        made = node(by_uuid("q"))
        assert types(made.depart()) == ["GPURemoved", "GPURemoved", "NodeDeparted"]
        assert made.marks == [None, None]
        assert made.quarantined is not None
        assert made.quarantined[:2] == ("False", "NodeDeparted")
        assert "GPUQuarantined" in types(made.status.history or [])
        assert made.under(context(by_uuid("q"), by_uuid("r"))) == []

    def test_a_node_that_returns_is_marked_like_a_new_one(self) -> None:
        made = node(by_uuid("q"))
        made.depart()
        assert types(made.read(A, B)) == ["NodeReturned", "GPUAdded", "GPUAdded", "GPUQuarantined"]
        assert made.marks == [["q"], None]

    def test_a_restart_tells_nothing_again(self) -> None:
        made = node(by_uuid("q"))
        before = made.status
        assert made.under(UNKNOWN) == []
        assert made.under(context(by_uuid("q"))) == []
        assert made.status == before

    def test_no_quarantine_pushes_out_another(self) -> None:
        names = [f"q{number}" for number in range(1, MAX_QUARANTINES_PER_GPU + 1)]
        rules = [by_uuid(name) for name in names]
        made = node(*rules)
        assert made.marks[0] == names
        assert made.under(context(*rules, by_uuid("a"))) == []
        assert types(made.under(context(*rules[1:], by_uuid("a")))) == [
            "GPUReleased",
            "GPUQuarantined",
        ]
        assert made.marks[0] == ["a", *names[1:]]


class TestCondition:
    """`Quarantined` is there only where a quarantine matches or did."""

    def test_it_is_absent_where_nothing_ever_matched(self) -> None:
        assert node(by_uuid("q", but(A, uuid="GPU-x"))).quarantined is None
        gone = known(A)
        gone.depart()
        assert find(gone.status.conditions, ConditionType.QUARANTINED) is None

    def test_it_names_quarantines_reasons_and_gpus(self) -> None:
        made = node(rule("q", {"serial": A.serial or ""}), by_uuid("b"), gpus=(A, TWIN))
        assert made.quarantined == (
            "True",
            "Quarantined",
            "b (why b): GPU-a serial 1650000000001;"
            " q (why q): GPU-a serial 1650000000001, GPU-b serial 1650000000001",
        )

    def test_it_follows_a_new_reason_without_an_entry(self) -> None:
        made = node(by_uuid("q"))
        assert made.under(context(replace(by_uuid("q"), reason="row remap failed"))) == []
        assert made.quarantined is not None
        assert "q (row remap failed): GPU-a" in made.quarantined[2]

    def test_a_quarantine_that_cannot_be_parsed_has_the_reason_of_the_history(self) -> None:
        made = node(by_uuid("q"))
        made.under(context(unreadable=("q",)))
        assert made.quarantined is not None
        assert "q (why q): GPU-a" in made.quarantined[2]
        forgotten = made.status.model_copy(update={"history": []})
        again = status.reconsidered(forgotten, now=NOW, context=context(unreadable=("q",)))
        found = find(again.status.conditions, ConditionType.QUARANTINED)
        assert found is not None
        assert found.message == "q: GPU-a serial 1650000000001"

    def test_it_turns_when_the_last_name_goes(self) -> None:
        made = node(by_uuid("q"), by_uuid("r", B))
        made.under(context(by_uuid("r", B)))
        assert made.quarantined is not None and made.quarantined[0] == "True"
        made.under(context())
        assert made.quarantined is not None and made.quarantined[:2] == ("False", "Released")
        found = find(made.status.conditions, ConditionType.QUARANTINED)
        assert found is not None and found.status is ConditionStatus.FALSE
        assert found.last_transition_time == made.now


def test_entries_about_quarantine_are_no_sighting_and_stay_after_departure() -> None:
    made = node()
    for _ in range(15):
        made.under(context(by_uuid("q")))
        made.under(context())
    history = types(made.status.history or [])
    assert history.count("Sighted") == 1
    assert len([kind for kind in history if kind in ("GPUQuarantined", "GPUReleased")]) == 20
    made.depart()
    history = types(made.status.history or [])
    assert len([kind for kind in history if kind in ("GPUQuarantined", "GPUReleased")]) == 20
