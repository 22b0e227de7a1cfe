"""A node that a test reads again and again, to see which history entries each read adds."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from gpuid_operator.api.inventory import (
    GPU,
    GPUHealth,
    GPUState,
    HistoryEntry,
    HistoryType,
    InventoryStatus,
    NodeInfo,
    Source,
)
from gpuid_operator.plan import status
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
class ReadNode:
    """A node that is read again and again."""

    status: InventoryStatus = field(default_factory=InventoryStatus)
    node: NodeInfo = NODE
    now: datetime = NOW
    context: StatusContext = field(default_factory=lambda: StatusContext(generation=1))
    pending_removals: PendingRemovals | None = None
    change: StatusChange = field(default_factory=lambda: StatusChange(InventoryStatus()))

    def read(
        self,
        *gpus: GPU,
        driver: str = "570.1",
        container: str = "c1",
        after: float = 1,
        through_claim: bool = False,
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
            through_claim=through_claim,
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


def known(*gpus: GPU, driver: str = "570.1") -> ReadNode:
    node = ReadNode()
    node.read(*gpus, driver=driver)
    return node


def types(entries: list[HistoryEntry]) -> list[str]:
    return [entry.type.value for entry in entries]
