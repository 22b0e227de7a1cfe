"""Removals of GPUs: which are certain, and which await a second read."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gpuid_operator.api.inventory import (
    GPU,
    ConditionType,
    HistoryType,
)
from gpuid_operator.api.meta import MAX_GPUS
from gpuid_operator.plan.conditions import find
from gpuid_operator.plan.resource_slices import PublishedGPUs
from gpuid_operator.plan.status_change import StatusContext
from tests.support.read_node import (
    NODE,
    P2,
    P3,
    A,
    B,
    but,
    known,
    source,
    types,
)


class TestRemoval:
    def test_waits_for_a_second_read(self) -> None:
        node = known(A, B)
        read_at = node.status.last_read_time
        assert node.read(A, container="c2") == []
        assert [gpu.uuid for gpu in node.status.gpus or ()] == ["GPU-a", "GPU-b"]
        # A restart of the operator has to read again.
        assert node.status.last_read_time == read_at
        assert node.status.source == source("c1")
        assert node.sighted() is None

        entries = node.read(A, container="c2", after=10)
        assert types(entries) == ["GPURemoved"]
        assert (entries[0].uuid, entries[0].pci_address) == ("GPU-b", P2)
        assert [gpu.uuid for gpu in node.status.gpus or ()] == ["GPU-a"]
        assert node.status.source == source("c2")
        assert node.sighted() == [("1821", "1650000000001")]

    def test_is_not_confirmed_within_ten_seconds(self) -> None:
        node = known(A, B)
        node.read(A)
        assert node.read(A, after=5) == []
        assert node.read(A, after=4.9) == []
        assert types(node.read(A, after=0.1)) == ["GPURemoved"]

    def test_is_not_confirmed_by_failed_reads(self) -> None:
        node = known(A, B)
        node.read(A)
        node.now += timedelta(minutes=1)
        node.fail()
        assert node.status.gpu_count == 2
        assert types(node.read(A)) == ["GPURemoved"]

    def test_is_forgotten_when_the_gpu_is_back(self) -> None:
        node = known(A, B)
        node.read(A)
        assert node.read(A, B, after=20) == []
        assert node.pending_removals is None
        assert node.read(A, after=20) == []

    def test_of_a_second_gpu_has_its_own_wait(self) -> None:
        node = known(A, B)
        node.read(A)
        assert types(node.read(after=10)) == ["GPURemoved"]
        assert types(node.read(after=9)) == []
        assert types(node.read(after=1)) == ["GPURemoved"]
        assert node.status.gpu_count == 0

    def test_waits_again_after_a_restart_of_the_operator(self) -> None:
        node = known(A, B)
        node.read(A)
        node.pending_removals = None
        assert node.read(A, after=60) == []
        assert types(node.read(A, after=10)) == ["GPURemoved"]

    def test_is_certain_when_another_gpu_sits_at_the_address(self) -> None:
        node = known(A, B)
        other = but(B, uuid="GPU-c", serial="1650000000003")
        entries = node.read(A, other)
        assert types(entries) == ["GPURemoved", "GPUAdded"]
        assert [entry.uuid for entry in entries] == ["GPU-b", "GPU-c"]

    def test_is_certain_when_a_known_gpu_moved_to_the_address(self) -> None:
        node = known(A, B)
        assert types(node.read(but(A, pci_address=P2))) == ["GPURemoved", "GPUMoved"]

    @pytest.mark.parametrize(
        "change",
        [{"boot_id": "boot-2"}, {"uid": "node-uid-2"}, {"provider_id": "x/i-2", "machine": "i-2"}],
    )
    def test_is_certain_after_a_boot_or_on_another_machine(self, change: dict[str, str]) -> None:
        node = known(A, B)
        node.node = NODE.model_copy(update=change)
        assert "GPURemoved" in types(node.read(A))
        assert node.status.gpu_count == 1

    def test_waits_when_facts_of_the_node_are_merely_unknown(self) -> None:
        node = known(A, B)
        node.node = NODE.model_copy(update={"boot_id": None, "provider_id": None, "uid": None})
        assert node.read(A) == []

    def test_a_gpu_that_was_missing_once_under_a_new_driver_is_not_changed_by_it(self) -> None:
        old = but(B, board_part_number=None, health=None)
        node = known(A, old)
        assert node.read(A, driver="580.1") == []
        assert node.status.driver_version == "570.1"
        entries = node.read(A, B, driver="580.1")
        assert types(entries) == ["DriverChanged"]
        assert (entries[0].from_, entries[0].to) == ("570.1", "580.1")
        assert node.read(A, B, driver="580.1") == []

    def test_a_driver_change_with_a_removal_is_said_once(self) -> None:
        node = known(A, B)
        assert node.read(A, driver="580.1") == []
        assert types(node.read(A, driver="580.1", after=10)) == ["DriverChanged", "GPURemoved"]

    def test_is_certain_after_a_boot_that_only_failed_reads_saw(self) -> None:
        node = known(A, B)
        node.node = NODE.model_copy(update={"boot_id": "boot-2"})
        node.fail()
        assert types(node.read(A)) == ["GPURemoved"]

    def test_names_the_machine_that_the_gpu_left(self) -> None:
        node = known(A)
        node.node = NODE.model_copy(update={"provider_id": "x/i-2", "machine": "i-2"})
        moved, gone, added = node.read(but(A, uuid="GPU-c"))
        assert (gone.type, gone.machine) == (HistoryType.GPU_REMOVED, "i-1")
        assert (moved.machine, added.machine) == ("i-2", "i-2")

    def test_that_waits_is_not_sighted(self) -> None:
        node = known(A)
        node.read(but(B, pci_address=P3))
        assert node.sighted() == [("1821", "1650000000002")]
        assert node.status.serials == ["1650000000001", "1650000000002"]

    def test_that_waits_has_no_place_beyond_the_most_gpus_of_a_node(self) -> None:
        def rack(first: int) -> list[GPU]:
            return [
                GPU(uuid=f"GPU-{n}", pci_address=f"{n:08X}:01:00.0")
                for n in range(first, first + MAX_GPUS)
            ]

        node = known(*rack(0))
        node.read(*rack(MAX_GPUS - 2))
        assert node.status.gpu_count == MAX_GPUS
        assert {gpu.uuid for gpu in node.status.gpus or ()} == {
            gpu.uuid for gpu in rack(MAX_GPUS - 2)
        }

    def test_of_all_gpus_leaves_an_empty_node(self) -> None:
        node = known(A, B)
        node.read()
        assert types(node.read(after=10)) == ["GPURemoved", "GPURemoved"]
        assert (node.status.gpu_count, node.status.gpus) == (0, [])


class TestClaim:
    """A read through a resource claim does not see a GPU in MIG mode, which its slices publish."""

    BOTH = StatusContext(generation=1, published=PublishedGPUs(True, ("GPU-a", "GPU-b")))

    def test_a_published_gpu_stays_as_last_read(self) -> None:
        node = known(A, B)
        node.context = self.BOTH
        assert node.read(A, container="c2", through_claim=True) == []
        assert node.pending_removals is None
        assert node.status.gpus == [A, B]
        # The read is complete: nothing is left to confirm.
        assert node.status.source == source("c2")
        assert node.status.last_read_time == node.now
        assert node.sighted() == [("1821", "1650000000001")]
        ready = find(node.status.conditions, ConditionType.READY)
        assert ready is not None
        assert ready.message == (
            "ResourceSlices publish GPUs that the resource claim of the pod does not include; they"
            " stay as last read: GPU-b"
        )
        assert node.read(A, after=60, through_claim=True) == []
        assert node.read(A, B, through_claim=True) == []

    def test_a_boot_alone_does_not_make_its_removal_certain(self) -> None:
        node = known(A, B)
        node.context = self.BOTH
        node.node = NODE.model_copy(update={"boot_id": "boot-2"})
        assert node.read(A, through_claim=True) == []
        assert node.status.gpu_count == 2

    def test_it_is_gone_once_the_slices_do_not_publish_it(self) -> None:
        node = known(A, B)
        node.context = self.BOTH
        node.read(A, through_claim=True)
        node.context = StatusContext(generation=1, published=PublishedGPUs(True, ("GPU-a",)))
        assert node.read(A, through_claim=True) == []
        assert types(node.read(A, after=10, through_claim=True)) == ["GPURemoved"]

    def test_it_is_gone_if_the_read_needed_no_claim(self) -> None:
        node = known(A, B)
        node.context = self.BOTH
        node.read(A)
        assert types(node.read(A, after=10)) == ["GPURemoved"]

    def test_it_is_gone_where_nothing_is_known_of_slices(self) -> None:
        node = known(A, B)
        node.read(A, through_claim=True)
        assert types(node.read(A, after=10, through_claim=True)) == ["GPURemoved"]

    @pytest.mark.parametrize(
        "change", [{"uid": "node-uid-2"}, {"provider_id": "x/i-2", "machine": "i-2"}]
    )
    def test_it_is_gone_on_another_machine(self, change: dict[str, str]) -> None:
        node = known(A, B)
        node.context = self.BOTH
        node.node = NODE.model_copy(update=change)
        gone = node.read(A, through_claim=True)[-1]
        assert (gone.type, gone.uuid, gone.machine) == (HistoryType.GPU_REMOVED, "GPU-b", "i-1")

    def test_it_is_gone_when_another_gpu_sits_at_the_address(self) -> None:
        node = known(A, B)
        node.context = self.BOTH
        entries = node.read(A, but(B, uuid="GPU-c"), through_claim=True)
        assert types(entries) == ["GPURemoved", "GPUAdded"]
