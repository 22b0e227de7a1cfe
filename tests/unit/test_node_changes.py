"""History entries about a node, its driver and its sightings."""

from __future__ import annotations

from datetime import timedelta

from gpuid_operator.api.inventory import (
    GPUHealth,
    HistoryType,
    InventoryState,
    InventoryStatus,
)
from tests.support.read_node import (
    NODE,
    A,
    B,
    ReadNode,
    but,
    known,
    types,
)


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
        assert node.read(A, driver="575.2", container="c2") == []
        assert node.status.gpu_count == 2
        assert types(node.read(A, B, driver="575.2", container="c2")) == ["DriverChanged"]

    def test_the_first_version_is_no_change(self) -> None:
        assert types(ReadNode().read(A, driver="570.1")) == ["GPUAdded"]


class TestNode:
    def test_on_another_machine_under_its_name(self) -> None:
        node = known(A)
        node.node = NODE.model_copy(
            update={"provider_id": "aws:///us-east-1a/i-2", "machine": "i-2", "uid": "node-uid-2"}
        )
        entries = node.read(but(A, uuid="GPU-c", serial="3"))
        assert types(entries) == ["MachineChanged", "GPURemoved", "GPUAdded"]
        assert (entries[0].from_, entries[0].to, entries[0].uuid) == ("i-1", "i-2", None)
        assert node.status.node == node.node
        assert types(node.read(but(A, uuid="GPU-c", serial="3"))) == []

    def test_with_the_same_gpus_on_another_machine(self) -> None:
        node = known(A)
        node.node = NODE.model_copy(update={"provider_id": "x/i-2", "machine": "i-2"})
        assert types(node.read(A)) == ["MachineChanged"]
        assert node.sighted() is not None

    def test_object_created_again(self) -> None:
        node = known(A)
        node.node = NODE.model_copy(update={"uid": "node-uid-2"})
        (entry,) = node.read(A)
        assert (entry.type, entry.from_, entry.to) == (
            HistoryType.MACHINE_CHANGED,
            "node node-uid",
            "node node-uid-2",
        )

    def test_boot_alone_is_no_history(self) -> None:
        node = known(A)
        node.node = NODE.model_copy(update={"boot_id": "boot-2"})
        assert node.read(A, container="c2") == []

    def test_departs(self) -> None:
        node = known(A, B)
        read_at = node.status.last_read_time
        entries = node.depart()
        assert types(entries) == ["GPURemoved", "GPURemoved", "NodeDeparted"]
        assert [entry.machine for entry in entries] == ["i-1"] * 3
        assert entries[0].source == "gpu-operator/plugin-x"
        assert node.status.state is InventoryState.DEPARTED
        assert [gpu.uuid for gpu in node.status.gpus or ()] == ["GPU-a", "GPU-b"]
        assert node.status.last_read_time == read_at
        assert node.depart() == []

    def test_that_was_never_read_departs(self) -> None:
        node = ReadNode()
        node.fail()
        assert types(node.depart()) == ["NodeDeparted"]

    def test_returns(self) -> None:
        node = known(A, B)
        node.depart()
        entries = node.read(A, B, driver="575.2")
        assert types(entries) == ["NodeReturned", "GPUAdded", "GPUAdded"]
        assert (entries[0].from_, entries[0].to) == (None, None)
        assert node.status.state is InventoryState.PRESENT
        assert node.sighted() is not None

    def test_returns_on_another_machine_with_other_gpus(self) -> None:
        node = known(A)
        node.depart()
        node.node = NODE.model_copy(update={"provider_id": "x/i-2", "machine": "i-2"})
        entries = node.read(B)
        assert types(entries) == ["NodeReturned", "GPUAdded"]
        assert (entries[0].from_, entries[0].to) == ("i-1", "i-2")

    def test_returns_without_gpus(self) -> None:
        node = known(A)
        node.depart()
        assert types(node.read()) == ["NodeReturned"]
        assert node.status.gpu_count == 0

    def test_has_not_returned_before_it_was_read(self) -> None:
        node = known(A)
        node.depart()
        node.fail()
        assert node.status.state is InventoryState.DEPARTED
        assert types(node.read(A)) == ["NodeReturned", "GPUAdded"]


class TestSighted:
    def test_with_the_first_read(self) -> None:
        node = ReadNode()
        node.read(B, but(A, chassis_serial=None, serial=None))
        assert node.sighted() == [(None, None), ("1821", "1650000000002")]
        assert node.change.entries[-1].type is HistoryType.SIGHTED

    def test_with_a_new_container(self) -> None:
        node = known(A)
        assert node.read(A, container="c2") == []
        assert node.sighted() == [("1821", "1650000000001")]

    def test_not_with_a_change_of_health_or_driver(self) -> None:
        node = known(A)
        node.read(but(A, health=GPUHealth(recovery_action="Reset")), driver="575.2")
        assert node.sighted() is None

    def test_after_its_interval(self) -> None:
        node = known(A)
        node.read(A, after=24 * 3600 - 2)
        assert node.sighted() is None
        node.read(A, after=2)
        assert node.sighted() is not None
        node.read(A, after=3600)
        assert node.sighted() is None

    def test_a_sighting_in_the_future_holds_no_other(self) -> None:
        node = known(A)
        node.read(A, after=-3600)
        assert node.sighted() is not None
        node.read(A, after=60)
        assert node.sighted() is None

    def test_is_no_change(self) -> None:
        node = known(A)
        changed = node.status.last_change_time
        node.read(A, container="c2", after=60)
        assert node.status.last_change_time == changed


def test_times_are_those_that_the_api_keeps() -> None:
    node = known(A)
    node.now += timedelta(microseconds=123)
    node.read(A, after=1.5)
    assert InventoryStatus.model_validate(node.status.to_json()) == node.status
