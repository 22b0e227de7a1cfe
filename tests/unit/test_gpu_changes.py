"""History entries about GPUs: when a read adds one, and when it does not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gpuid_operator.api.inventory import (
    GPU,
    ConditionStatus,
    ConditionType,
    GPUHealth,
    GPUState,
    HistoryType,
)
from gpuid_operator.plan.conditions import find
from tests.support.read_node import (
    LOST,
    NOW,
    P1,
    P2,
    P3,
    UNKNOWN,
    A,
    B,
    ReadNode,
    but,
    known,
    types,
)


def test_a_first_read_adds_every_gpu_with_all_that_is_known() -> None:
    node = ReadNode()
    first, second = node.read(A, B)
    assert (first.type, second.type) == (HistoryType.GPU_ADDED, HistoryType.GPU_ADDED)
    assert (first.sequence, first.time) == (1, NOW + timedelta(seconds=1))
    assert (first.uuid, first.serial, first.pci_address) == ("GPU-a", "1650000000001", P1)
    assert (first.chassis, first.product, first.driver) == ("1821", "NVIDIA H100", "570.1")
    assert (first.machine, first.source) == ("i-1", "gpu-operator/plugin-x")
    assert (first.from_, first.to) == (None, None)
    assert node.status.gpu_count == 2
    assert node.status.serials == ["1650000000001", "1650000000002"]
    assert node.status.chassis == ["1821"]
    assert node.status.last_change_time == first.time


def test_a_node_without_gpus_is_known_to_have_none() -> None:
    node = ReadNode()
    assert node.read() == []
    assert (node.status.gpu_count, node.status.gpus) == (0, [])
    assert node.sighted() is None


def test_an_identical_read_adds_nothing() -> None:
    node = known(A, B)
    assert node.read(A, B) == []
    assert node.change.entries == ()


def test_a_gpu_that_comes_later_is_added() -> None:
    node = known(A)
    assert types(node.read(A, B)) == ["GPUAdded"]
    assert node.sighted() == [("1821", "1650000000001"), ("1821", "1650000000002")]


class TestMove:
    def test_to_another_address(self) -> None:
        node = known(A)
        (entry,) = node.read(but(A, pci_address=P3))
        assert (entry.type, entry.from_, entry.to) == (HistoryType.GPU_MOVED, P1, P3)
        assert node.sighted() == [("1821", "1650000000001")]

    def test_two_gpus_that_change_places_both_moved(self) -> None:
        node = known(A, B)
        entries = node.read(but(B, pci_address=P1), but(A, pci_address=P2))
        assert types(entries) == ["GPUMoved", "GPUMoved"]
        assert {entry.uuid: entry.to for entry in entries} == {"GPU-a": P2, "GPU-b": P1}

    def test_to_another_slot(self) -> None:
        (entry,) = known(A).read(but(A, slot=4))
        assert (entry.type, entry.from_, entry.to) == (HistoryType.GPU_MOVED, "1", "4")

    def test_to_another_chassis(self) -> None:
        (entry,) = known(A).read(but(A, chassis_serial="1822"))
        assert (entry.type, entry.from_, entry.to) == (HistoryType.GPU_MOVED, "1821", "1822")

    @pytest.mark.parametrize("fact", ["slot", "chassis_serial", "pci_address"])
    def test_is_no_place_that_becomes_known_or_unknown(self, fact: str) -> None:
        assert known(A).read(but(A, **{fact: None})) == []
        assert known(but(A, **{fact: None})).read(A) == []


class TestChange:
    @pytest.mark.parametrize(
        ("fact", "value"),
        [
            ("serial", "1650000000009"),
            ("vbios", "96.01"),
            ("board_part_number", "692-2"),
            ("gpu_part_number", "2331"),
        ],
    )
    def test_of_an_identifying_fact(self, fact: str, value: str) -> None:
        (entry,) = known(A).read(but(A, **{fact: value}))
        assert entry.type is HistoryType.GPU_CHANGED
        assert (entry.from_, entry.to) == (getattr(A, fact), value)
        assert entry.uuid == "GPU-a"

    def test_each_fact_is_an_entry_of_its_own(self) -> None:
        entries = known(A).read(but(A, vbios="96.01", serial="9"))
        assert types(entries) == ["GPUChanged", "GPUChanged"]

    @pytest.mark.parametrize("fact", ["mig", "virtualization", "index", "fabric", "architecture"])
    def test_other_facts_are_no_history(self, fact: str) -> None:
        node = known(A)
        value = 7 if fact == "index" else None if fact == "fabric" else "Enabled"
        assert node.read(but(A, **{fact: value})) == []
        assert getattr((node.status.gpus or [])[0], fact) == value


class TestLost:
    def test_is_not_removed(self) -> None:
        node = known(A, B)
        (entry,) = node.read(A, GPU(pci_address=P2, index=1, state=LOST))
        assert (entry.type, entry.uuid, entry.serial) == (
            HistoryType.GPU_LOST,
            "GPU-b",
            "1650000000002",
        )
        assert node.status.gpu_count == 2
        lost = (node.status.gpus or [])[1]
        assert (lost.state, lost.uuid, lost.product) == (LOST, "GPU-b", "NVIDIA H100")
        assert node.read(A, GPU(pci_address=P2, index=1, state=LOST)) == []

    def test_with_an_uuid_that_can_still_be_read(self) -> None:
        assert types(known(A).read(but(A, state=LOST))) == ["GPULost"]

    def test_and_back(self) -> None:
        node = known(A)
        node.read(GPU(pci_address=P1, state=LOST))
        (entry,) = node.read(A)
        assert (entry.type, entry.from_, entry.to) == (HistoryType.GPU_RECOVERED, "Lost", "OK")
        assert (node.status.gpus or [])[0] == A

    def test_and_back_with_errors(self) -> None:
        node = known(A)
        node.read(GPU(pci_address=P1, state=LOST))
        hurt = but(A, health=GPUHealth(recovery_action="None", ecc_uncorrected=3))
        recovered, health = node.read(hurt)
        assert recovered.type is HistoryType.GPU_RECOVERED
        assert (health.from_, health.to) == ("eccUncorrected=0", "eccUncorrected=3")

    def test_is_not_back_because_its_body_cannot_be_read(self) -> None:
        node = known(A)
        node.read(GPU(pci_address=P1, state=LOST))
        assert node.read(GPU(pci_address=P1, state=UNKNOWN)) == []
        assert (node.status.gpus or [])[0].state is LOST
        assert types(node.read(A)) == ["GPURecovered"]

    def test_a_driver_that_reports_more_meanwhile_changes_nothing(self) -> None:
        node = known(but(A, board_part_number=None, health=None), driver="550.1")
        lost = GPU(pci_address=P1, state=LOST)
        assert types(node.read(lost, driver="550.1")) == ["GPULost"]
        assert types(node.read(lost, driver="570.1")) == ["DriverChanged"]
        assert types(node.read(A, driver="570.1")) == ["GPURecovered"]

    def test_when_first_seen_is_added_and_told(self) -> None:
        assert types(ReadNode().read(GPU(pci_address=P1, state=LOST))) == ["GPUAdded", "GPULost"]

    def test_is_named_once_it_can_be_read(self) -> None:
        node = ReadNode()
        node.read(GPU(pci_address=P1, state=LOST))
        entries = node.read(A)
        assert types(entries) == ["GPUAdded", "GPURecovered"]
        assert entries[0].uuid == "GPU-a"

    def test_and_replaced_is_removed(self) -> None:
        node = known(A)
        node.read(GPU(pci_address=P1, state=LOST))
        entries = node.read(but(B, pci_address=P1))
        assert types(entries) == ["GPURemoved", "GPUAdded"]

    def test_is_forgotten_when_it_is_gone_from_the_list(self) -> None:
        node = known(A)
        node.read(GPU(pci_address=P1, state=LOST))
        node.read()
        assert types(node.read(after=10)) == ["GPURemoved"]


class TestHealth:
    @pytest.mark.parametrize(
        ("health", "told"),
        [
            ({"recovery_action": "Reset", "ecc_uncorrected": 0}, "recoveryAction=Reset"),
            ({"recovery_action": "None", "ecc_uncorrected": 5}, "eccUncorrected=5"),
            (
                {"recovery_action": "None", "ecc_uncorrected": 0, "remapped_rows_failed": True},
                "remappedRowsFailed=true",
            ),
        ],
    )
    def test_change_is_told(self, health: dict[str, object], told: str) -> None:
        (entry,) = known(A).read(but(A, health=GPUHealth.model_validate(health)))
        assert (entry.type, entry.to) == (HistoryType.HEALTH_CHANGED, told)

    def test_need_of_a_reset(self) -> None:
        node = known(A)
        (entry,) = node.read(but(A, state=GPUState.RESET_REQUIRED))
        assert (entry.from_, entry.to) == ("state=OK", "state=ResetRequired")
        healthy = find(node.status.conditions, ConditionType.HEALTHY)
        assert healthy is not None
        assert healthy.status is ConditionStatus.FALSE

    def test_facts_that_an_unreadable_body_does_not_give_stay(self) -> None:
        node = known(A)
        partial = GPU(pci_address=P1, state=UNKNOWN, health=GPUHealth(recovery_action="None"))
        (entry,) = node.read(partial)
        assert (entry.from_, entry.to) == ("state=OK", "state=Unknown")
        assert (node.status.gpus or [])[0] == but(A, state=UNKNOWN)


class TestIdentity:
    def test_twins_share_a_serial(self) -> None:
        twin = but(B, serial=A.serial)
        node = known(A, twin)
        assert node.status.gpu_count == 2
        assert node.status.serials == [A.serial]
        assert node.sighted() == [("1821", A.serial)]
        other = but(twin, uuid="GPU-c")
        entries = node.read(A, other)
        assert types(entries) == ["GPURemoved", "GPUAdded"]
        assert [entry.uuid for entry in entries] == ["GPU-b", "GPU-c"]

    def test_without_an_uuid_is_serial_and_address(self) -> None:
        nameless = but(A, uuid=None)
        node = known(nameless)
        assert node.read(nameless) == []
        assert types(node.read(but(nameless, serial="9"))) == ["GPURemoved", "GPUAdded"]

    def test_twins_without_uuids_are_told_apart_by_address(self) -> None:
        one, two = but(A, uuid=None), but(B, uuid=None, serial=A.serial)
        node = known(one, two)
        assert node.read(one, two) == []
        node.read(two)
        (entry,) = node.read(two, after=10)
        assert (entry.type, entry.pci_address) == (HistoryType.GPU_REMOVED, P1)

    def test_of_a_nameless_gpu_elsewhere_is_another(self) -> None:
        node = known(but(A, uuid=None))
        assert types(node.read(but(A, uuid=None, pci_address=P3))) == ["GPUAdded"]
        assert types(node.read(but(A, uuid=None, pci_address=P3), after=10)) == ["GPURemoved"]

    def test_an_uuid_that_is_no_longer_given_stays_known(self) -> None:
        node = known(A)
        assert node.read(but(A, uuid=None)) == []
        assert (node.status.gpus or [])[0].uuid == "GPU-a"

    def test_a_serial_by_which_a_gpu_is_known_stays_known(self) -> None:
        node = known(but(A, uuid=None))
        assert node.read(but(A, uuid=None, serial=None)) == []
        assert (node.status.gpus or [])[0].serial == A.serial

    def test_an_uuid_that_becomes_readable_is_told(self) -> None:
        (entry,) = known(but(A, uuid=None)).read(A)
        assert (entry.type, entry.uuid) == (HistoryType.GPU_ADDED, "GPU-a")

    def test_an_unreadable_gpu_is_the_one_at_its_address(self) -> None:
        node = known(A, B)
        entries = node.read(GPU(pci_address=P1, state=UNKNOWN), B)
        assert types(entries) == ["HealthChanged"]
        assert entries[0].uuid == "GPU-a"


def test_gpus_are_in_pci_order_those_without_an_address_last() -> None:
    node = ReadNode()
    node.read(A, B, but(A, uuid="GPU-0", pci_address=None))
    node.read(B, but(A, pci_address=P3), but(A, uuid="GPU-0", pci_address=None))
    assert [gpu.pci_address for gpu in node.status.gpus or ()] == [P2, P3, None]
