"""The differences between two reads of a node, as entries of its history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from gpuid_operator.api.inventory import (
    GPU,
    GPUHealth,
    GPUState,
    HistoryEntry,
    HistoryType,
    NodeInfo,
    Seen,
)
from gpuid_operator.api.meta import MAX_FROM_TO, MAX_MESSAGE
from gpuid_operator.api.values import truncate
from gpuid_operator.plan.identity import IDENTITY_FACTS, Match

_CHANGES: Final = ("serial", "vbios", "board_part_number", "gpu_part_number")
"""The facts whose change under one UUID is a `GPUChanged`."""


@dataclass(slots=True)
class HistoryWriter:
    """Writes entries in sequence, all with the same time, machine, source and driver."""

    sequence: int
    """Sequence of the newest entry so far."""
    now: datetime
    machine: str | None = None
    source: str | None = None
    driver: str | None = None

    def entry(self, kind: HistoryType, gpu: GPU | None = None, **facts: Any) -> HistoryEntry:
        """The next entry, about one GPU or, without `gpu`, about the node as a whole."""
        self.sequence += 1
        facts.setdefault("machine", self.machine)
        if gpu is not None:
            facts = {
                "uuid": gpu.uuid,
                "serial": gpu.serial,
                "pci_address": gpu.pci_address,
                "chassis": gpu.chassis_serial,
                "product": gpu.product,
            } | facts
        for name, limit in (("from_", MAX_FROM_TO), ("to", MAX_FROM_TO), ("message", MAX_MESSAGE)):
            if facts.get(name) is not None:
                facts[name] = truncate(facts[name], limit)
        return HistoryEntry(
            sequence=self.sequence,
            time=self.now,
            type=kind,
            driver=self.driver,
            **({"source": self.source} | facts),
        )


def machine_change(before: NodeInfo | None, now: NodeInfo) -> tuple[str, str] | None:
    """(from, to) when another machine or another Node object is behind the node name."""
    if before is None:
        return None
    if before.provider_id != now.provider_id and before.provider_id and now.provider_id:
        return before.machine, now.machine
    if before.uid != now.uid and before.uid and now.uid:
        return f"node {before.uid}", f"node {now.uid}"
    return None


def rebooted(before: NodeInfo | None, now: NodeInfo) -> bool:
    """Whether missing GPUs need no second read: another machine is behind the name, or the node
    rebooted, and hardware may have changed meanwhile."""
    if before is None:
        return False
    return machine_change(before, now) is not None or (
        before.boot_id != now.boot_id and bool(before.boot_id and now.boot_id)
    )


def gpu_entries(
    writer: HistoryWriter, *, found: Match, driver_changed: bool, left: str | None
) -> Iterator[HistoryEntry]:
    """Entries for the GPUs of a read: removed, then those still there, then added, in PCI order.

    `found.missing` must hold only GPUs whose removal is certain; `left` is the machine that they
    left. With `driver_changed`, a fact that appears or disappears comes from the driver and is no
    change of the GPU.
    """
    for gpu in found.missing:
        yield removed(writer, gpu, machine=left)
    for before, now in found.kept:
        yield from _kept(writer, before=before, now=now, driver_changed=driver_changed)
    for gpu in found.added:
        yield writer.entry(HistoryType.GPU_ADDED, gpu)
        if gpu.state is GPUState.LOST:
            yield _lost(writer, gpu)


def removed(writer: HistoryWriter, gpu: GPU, *, machine: str | None) -> HistoryEntry:
    """The entry for a GPU that left `machine`, which may not be the machine behind the name now."""
    return writer.entry(HistoryType.GPU_REMOVED, gpu, machine=machine)


def _lost(writer: HistoryWriter, gpu: GPU) -> HistoryEntry:
    return writer.entry(
        HistoryType.GPU_LOST, gpu, message="nvidia-smi reports the GPU as lost; it remains listed"
    )


def _kept(
    writer: HistoryWriter, *, before: GPU, now: GPU, driver_changed: bool
) -> Iterator[HistoryEntry]:
    if before == now:
        return
    # The facts of a GPU that could not be read may be those that another driver reported.
    driver_changed = driver_changed or before.state is not GPUState.OK
    if before.pci_address != now.pci_address and before.pci_address and now.pci_address:
        yield writer.entry(
            HistoryType.GPU_MOVED,
            now,
            from_=before.pci_address,
            to=now.pci_address,
            message=f"moved from PCI address {before.pci_address} to {now.pci_address}",
        )
    elif before.slot != now.slot and before.slot is not None and now.slot is not None:
        yield writer.entry(
            HistoryType.GPU_MOVED,
            now,
            from_=str(before.slot),
            to=str(now.slot),
            message=f"moved from slot {before.slot} to slot {now.slot}",
        )
    elif (
        before.chassis_serial != now.chassis_serial and before.chassis_serial and now.chassis_serial
    ):
        yield writer.entry(
            HistoryType.GPU_MOVED,
            now,
            from_=before.chassis_serial,
            to=now.chassis_serial,
            message=f"moved from chassis {before.chassis_serial} to chassis {now.chassis_serial}",
        )
    unknown = before.uuid is None and before.serial is None
    if before.uuid is None and (now.uuid or (unknown and now.serial)):
        # The GPU was lost or unreadable when first seen; this is the first read of its identity.
        yield writer.entry(HistoryType.GPU_ADDED, now, message="first read of the GPU's identity")
    for fact in () if unknown else _CHANGES:
        old, new = getattr(before, fact), getattr(now, fact)
        if old == new or (driver_changed and old is None):
            continue
        yield writer.entry(
            HistoryType.GPU_CHANGED,
            now,
            from_=old,
            to=new,
            message=f"{IDENTITY_FACTS[fact]} changed from {old or 'none'} to {new}",
        )
    if before.state is not now.state and GPUState.LOST in (before.state, now.state):
        if now.state is GPUState.LOST:
            yield _lost(writer, now)
        else:
            yield writer.entry(
                HistoryType.GPU_RECOVERED, now, from_=before.state.value, to=now.state.value
            )
    old_health, new_health = _health_change(before, now, driver_changed=driver_changed)
    if new_health and not unknown:
        yield writer.entry(
            HistoryType.HEALTH_CHANGED,
            now,
            from_=old_health,
            to=new_health,
            message=f"health changed from {old_health} to {new_health}",
        )


def _health_change(before: GPU, now: GPU, *, driver_changed: bool) -> tuple[str, str]:
    """The health facts that changed, before and now; empty when none did."""
    old, new = _health_facts(before), _health_facts(now)
    if GPUState.LOST in (before.state, now.state):
        # GPULost and GPURecovered cover the state.
        old.pop("state"), new.pop("state")
    changed = [
        name
        for name in new
        if old[name] != new[name]
        and not (driver_changed and (old[name] is None or new[name] is None))
    ]
    return (
        ", ".join(f"{name}={_word(old[name])}" for name in changed),
        ", ".join(f"{name}={_word(new[name])}" for name in changed),
    )


def _health_facts(gpu: GPU) -> dict[str, Any]:
    health = gpu.health or GPUHealth()
    return {"state": gpu.state.value} | {
        (field.alias or name): getattr(health, name)
        for name, field in GPUHealth.model_fields.items()
    }


def _word(value: Any) -> str:
    if value is None:
        return "unknown"
    return str(value).lower() if isinstance(value, bool) else str(value)


def sighting(writer: HistoryWriter, gpus: Sequence[GPU]) -> HistoryEntry:
    """The `Sighted` entry: the unique pairs of chassis and serial, sorted."""
    pairs = sorted({(gpu.chassis_serial or "", gpu.serial or "") for gpu in gpus})
    return writer.entry(
        HistoryType.SIGHTED,
        seen=[Seen(chassis=chassis or None, serial=serial or None) for chassis, serial in pairs],
    )
