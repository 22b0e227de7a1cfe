"""History entries of GPUs that come, move or change, and of their drivers."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gpuid_operator.api.inventory import (
    GPU,
    GPUHealth,
    HistoryType,
    InventoryStatus,
)
from tests.support.node_reads import (
    NOW,
    P1,
    P2,
    P3,
    UNKNOWN,
    A,
    B,
    Node,
    but,
    known,
    types,
)


def test_a_first_read_adds_every_gpu_with_all_that_is_known() -> None:
    node = Node()
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
    node = Node()
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


class TestDriver:
    def test_upgrade_is_told_once(self) -> None:
        node = known(A, B)
        (entry,) = node.read(A, B, driver="575.2")
        assert entry.type is HistoryType.DRIVER_CHANGED
        assert (entry.from_, entry.to, entry.uuid) == ("570.1", "575.2", None)
        assert node.read(A, B, driver="575.2") == []

    def test_upgrade_that_moves_or_renames_fields_changes_no_gpu(self) -> None:
        node = known(but(A, gpu_part_number=None, slot=None), B)
        now = but(A, board_part_number=None, vbios=None, chassis_serial=None, health=GPUHealth())
        assert types(node.read(now, B, driver="575.2")) == ["DriverChanged"]

    def test_upgrade_hides_no_real_change(self) -> None:
        entries = known(A, B).read(
            but(A, vbios="96.01"), but(B, uuid="GPU-c", serial="3"), driver="575.2"
        )
        assert types(entries) == ["DriverChanged", "GPURemoved", "GPUChanged", "GPUAdded"]

    def test_upgrade_is_no_proof_that_a_gpu_is_gone(self) -> None:
        node = known(A, B)
        assert types(node.read(A, driver="575.2", container="c2")) == ["DriverChanged"]
        assert node.status.gpu_count == 2

    def test_the_first_version_is_no_change(self) -> None:
        assert types(Node().read(A, driver="570.1")) == ["GPUAdded"]


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


def test_times_are_those_that_the_api_keeps() -> None:
    node = known(A)
    node.now += timedelta(microseconds=123)
    node.read(A, after=1.5)
    assert InventoryStatus.model_validate(node.status.to_json()) == node.status


def test_gpus_are_in_pci_order_those_without_an_address_last() -> None:
    node = Node()
    node.read(A, B, but(A, uuid="GPU-0", pci_address=None))
    node.read(B, but(A, pci_address=P3), but(A, uuid="GPU-0", pci_address=None))
    assert [gpu.pci_address for gpu in node.status.gpus or ()] == [P2, P3, None]
