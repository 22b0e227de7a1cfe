"""Each type of history entry: what brings it about, and what does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from gpuid_operator.api.inventory import (
    GPU,
    ConditionStatus,
    ConditionType,
    GPUHealth,
    GPUState,
    HistoryEntry,
    HistoryType,
    InventoryState,
    InventoryStatus,
    NodeInfo,
    Source,
)
from gpuid_operator.api.meta import MAX_GPUS
from gpuid_operator.plan import status
from gpuid_operator.plan.conditions import find
from gpuid_operator.plan.failure import FailureReason
from gpuid_operator.plan.smi import Reading
from gpuid_operator.plan.status_change import PendingRemovals, StatusChange, StatusContext

NOW = datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)
NODE = NodeInfo(
    name="gpu-node-01",
    uid="node-uid",
    provider_id="aws:///us-east-1a/i-1",
    machine="i-1",
    boot_id="boot-1",
)
P1, P2, P3 = (f"00000000:0{bus}:00.0" for bus in (1, 2, 3))
A = GPU(
    uuid="GPU-a",
    serial="1650000000001",
    pci_address=P1,
    product="NVIDIA H100",
    vbios="96.00",
    board_part_number="692-1",
    gpu_part_number="2330",
    chassis_serial="1821",
    slot=1,
    health=GPUHealth(recovery_action="None", ecc_uncorrected=0),
)
B = A.model_copy(update={"uuid": "GPU-b", "serial": "1650000000002", "pci_address": P2, "slot": 2})
LOST = GPUState.LOST
UNKNOWN = GPUState.UNKNOWN


def source(container: str = "c1") -> Source:
    return Source(namespace="gpu-operator", pod="plugin-x", container="c", container_id=container)


def but(gpu: GPU, **facts: object) -> GPU:
    return gpu.model_copy(update=facts)


@dataclass
class Node:
    """A node that is read again and again."""

    status: InventoryStatus = field(default_factory=InventoryStatus)
    node: NodeInfo = NODE
    now: datetime = NOW
    context: StatusContext = field(default_factory=lambda: StatusContext(generation=1))
    pending_removals: PendingRemovals | None = None
    change: StatusChange = field(default_factory=lambda: StatusChange(InventoryStatus()))

    def read(
        self, *gpus: GPU, driver: str = "570.1", container: str = "c1", after: float = 1
    ) -> list[HistoryEntry]:
        """What the next read adds to the history, `Sighted` apart."""
        self.now += timedelta(seconds=after)
        self.change = status.after_read(
            self.status,
            Reading(driver_version=driver, cuda_version="12.8", gpus=gpus),
            source=source(container),
            node=self.node,
            now=self.now,
            context=self.context,
            pending_removals=self.pending_removals,
        )
        self.status, self.pending_removals = self.change.status, self.change.pending_removals
        return [entry for entry in self.change.entries if entry.type is not HistoryType.SIGHTED]

    def sighted(self) -> list[tuple[str | None, str | None]] | None:
        found = [e for e in self.change.entries if e.type is HistoryType.SIGHTED]
        return [(seen.chassis, seen.serial) for seen in found[0].seen or ()] if found else None

    def fail(self) -> None:
        self.status = status.after_failure(
            self.status,
            reason=FailureReason.EXEC_FAILED,
            message="no",
            node=self.node,
            now=self.now,
            context=self.context,
        ).status

    def depart(self) -> list[HistoryEntry]:
        change = status.after_departure(self.status, now=self.now, context=self.context)
        self.status = change.status
        return list(change.entries)


def known(*gpus: GPU, driver: str = "570.1") -> Node:
    node = Node()
    node.read(*gpus, driver=driver)
    return node


def types(entries: list[HistoryEntry]) -> list[str]:
    return [entry.type.value for entry in entries]


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

    def test_starts_anew_after_a_restart_of_the_operator(self) -> None:
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

    def test_is_in_doubt_when_facts_of_the_node_are_merely_unknown(self) -> None:
        node = known(A, B)
        node.node = NODE.model_copy(update={"boot_id": None, "provider_id": None, "uid": None})
        assert node.read(A) == []

    def test_is_certain_after_a_boot_that_only_failed_reads_saw(self) -> None:
        node = known(A, B)
        node.node = NODE.model_copy(update={"boot_id": "boot-2"})
        node.fail()
        assert types(node.read(A)) == ["GPURemoved"]

    def test_is_told_with_the_machine_that_the_gpu_was_behind(self) -> None:
        node = known(A)
        node.node = NODE.model_copy(update={"provider_id": "x/i-2", "machine": "i-2"})
        moved, gone, added = node.read(but(A, uuid="GPU-c"))
        assert (gone.type, gone.machine) == (HistoryType.GPU_REMOVED, "i-1")
        assert (moved.machine, added.machine) == ("i-2", "i-2")

    def test_in_doubt_is_not_seen(self) -> None:
        node = known(A)
        node.read(but(B, pci_address=P3))
        assert node.sighted() == [("1821", "1650000000002")]
        assert node.status.serials == ["1650000000001", "1650000000002"]

    def test_in_doubt_has_no_place_beyond_the_most_gpus_of_a_node(self) -> None:
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

    def test_when_first_seen_is_added_and_told(self) -> None:
        assert types(Node().read(GPU(pci_address=P1, state=LOST))) == ["GPUAdded", "GPULost"]

    def test_is_named_once_it_can_be_read(self) -> None:
        node = Node()
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
        node = Node()
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
        node = Node()
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


def test_gpus_are_in_pci_order_those_without_an_address_last() -> None:
    node = Node()
    node.read(A, B, but(A, uuid="GPU-0", pci_address=None))
    node.read(B, but(A, pci_address=P3), but(A, uuid="GPU-0", pci_address=None))
    assert [gpu.pci_address for gpu in node.status.gpus or ()] == [P2, P3, None]


class TestFailure:
    def test_keeps_the_facts(self) -> None:
        node = known(A)
        before = node.status
        node.fail()
        kept = {"gpus", "gpu_count", "serials", "source", "last_read_time", "history", "node"}
        assert all(getattr(node.status, name) == getattr(before, name) for name in kept)
        ready = find(node.status.conditions, ConditionType.READY)
        assert ready is not None
        assert (ready.status, ready.reason, ready.message) == (
            ConditionStatus.FALSE,
            "ExecFailed",
            "no",
        )
        assert types(node.read(A)) == []

    def test_before_the_first_good_read_knows_no_gpus(self) -> None:
        node = Node()
        node.fail()
        assert (node.status.gpus, node.status.gpu_count) == (None, None)
        assert node.status.state is InventoryState.PRESENT
        healthy = find(node.status.conditions, ConditionType.HEALTHY)
        assert healthy is not None
        assert healthy.status is ConditionStatus.UNKNOWN

    def test_the_same_again_changes_nothing(self) -> None:
        node = known(A)
        node.fail()
        before = node.status
        node.now += timedelta(minutes=5)
        node.fail()
        assert node.status == before


class TestSuspension:
    def ready(self, node: Node) -> tuple[str, str]:
        condition = find(node.status.conditions, ConditionType.READY)
        assert condition is not None
        return condition.status.value, condition.reason

    def suspend(self, node: Node, suspended: bool) -> None:
        node.context = StatusContext(generation=1, suspended=suspended)
        node.status = status.reconsidered(node.status, now=node.now, context=node.context).status

    def test_keeps_the_status_of_ready(self) -> None:
        node = known(A)
        self.suspend(node, True)
        assert self.ready(node) == ("True", "Suspended")
        self.suspend(node, False)
        assert self.ready(node) == ("True", "ReadOK")

    def test_after_a_failure(self) -> None:
        node = known(A)
        node.fail()
        self.suspend(node, True)
        assert self.ready(node) == ("False", "Suspended")
        self.suspend(node, False)
        assert self.ready(node) == ("False", "Resumed")

    def test_of_a_node_that_was_never_read(self) -> None:
        node = Node()
        self.suspend(node, True)
        assert self.ready(node) == ("Unknown", "Suspended")
        self.suspend(node, False)
        assert self.ready(node) == ("Unknown", "Resumed")

    def test_a_failure_meanwhile_does_not_fight_it(self) -> None:
        node = known(A)
        self.suspend(node, True)
        before = node.status
        node.fail()
        assert node.status == before

    def test_does_not_concern_a_departed_node(self) -> None:
        node = known(A)
        node.depart()
        self.suspend(node, True)
        assert self.ready(node) == ("False", "NodeNotFound")


def test_a_token_that_is_too_long_is_kept_in_a_form_that_can_be_compared() -> None:
    token = "<now>" * 1000
    change = status.after_failure(
        InventoryStatus(),
        reason=FailureReason.TIMED_OUT,
        message="",
        node=None,
        now=NOW,
        context=StatusContext(),
        request=token,
    )
    handled = change.status.last_handled_request
    assert handled is not None
    assert len(handled) <= 1024
    assert handled == status.request_token(token) == status.request_token(handled)
