"""The placements of GPUs on one node, replayed from its history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from gpuid_operator.api.inventory import (
    GPU,
    HistoryEntry,
    HistoryType,
    InventoryState,
    InventoryStatus,
)
from gpuid_operator.plan.identity import Key, key
from gpuid_operator.plan.labels import MISSING
from gpuid_operator.plan.placement import Placement

_ABOUT_PRESENT: Final = frozenset(
    {
        HistoryType.GPU_MOVED,
        HistoryType.GPU_CHANGED,
        HistoryType.GPU_LOST,
        HistoryType.GPU_RECOVERED,
        HistoryType.HEALTH_CHANGED,
        HistoryType.GPU_QUARANTINED,
        HistoryType.GPU_RELEASED,
    }
)
"""Types of entries about a GPU that was present before and after."""


def placements(node: str, status: InventoryStatus) -> list[Placement]:
    """All placements on a node that its status and history show; each GPU of a present node has
    exactly one present placement."""
    replay = _Placements(node)
    for entry in status.history or ():
        replay.take(entry)
    return replay.settle(status)


class _Placements:
    """Replays a history and tracks the open placement of each GPU.

    entry          | a placement of the GPU is open     | none is open
    ---------------|------------------------------------|-------------------------------------
    GPUAdded       | first read of its identity: it     | one begins
                   | goes on; otherwise its end was     |
                   | dropped, and a new one begins      |
    GPURemoved     | it ends                            | one with an unknown beginning ends
    other, on GPU  | takes the facts; another machine   | one with an unknown beginning begins
                   | or chassis: ends, a new one begins |
    MachineChanged | those that outlive this read end, and begin on the new machine
    NodeDeparted   | all end
    NodeReturned   | all end, at an unknown time
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._open: dict[Key, Placement] = {}
        self._ended: list[Placement] = []
        self._machine_change: HistoryEntry | None = None
        self._departed: datetime | None = None

    def take(self, entry: HistoryEntry) -> None:
        change = self._machine_change
        if change is not None and (
            entry.time != change.time or entry.type is HistoryType.MACHINE_CHANGED
        ):
            self._change_machines()
        match entry.type:
            case HistoryType.GPU_ADDED:
                self._added(entry)
            case HistoryType.GPU_REMOVED:
                self._removed(entry)
            case HistoryType.MACHINE_CHANGED:
                # Removals that follow in the same read are from the previous machine.
                self._machine_change = entry
            case HistoryType.NODE_DEPARTED:
                self._departed = entry.time
                self._end_all(entry.time)
            case HistoryType.NODE_RETURNED:
                self._end_all(None)
            case kind if kind in _ABOUT_PRESENT:
                self._seen(entry)
            case _:
                pass  # Entries about checks, drivers and sightings name no single GPU.

    def settle(self, status: InventoryStatus) -> list[Placement]:
        """Reconcile the replayed history with the GPUs of the status, which take precedence."""
        self._change_machines()
        machine = status.node.machine if status.node else None
        if status.state is InventoryState.DEPARTED:
            self._end_all(self._departed)
            ended = {
                placement.gpu for placement in self._ended if placement.until == self._departed
            }
            # The history of a node with very many GPUs does not keep every removal.
            self._ended += [
                self._new(gpu, machine=machine, until=self._departed)
                for gpu in status.gpus or ()
                if key(gpu) not in ended
            ]
            return self._ended
        here = list(self._here(status.gpus or (), machine))
        self._end_all(None)
        return self._ended + here

    def _here(self, gpus: Sequence[GPU], machine: str | None) -> Iterator[Placement]:
        for gpu in gpus:
            name = self._find(gpu)
            if name is None:
                placement = self._new(gpu, machine=machine)
            else:
                placement = self._open.pop(self._update(name, gpu, machine=machine, at=None))
            yield replace(
                placement, present=True, state=gpu.state, quarantines=tuple(gpu.quarantines or ())
            )

    def _added(self, entry: HistoryEntry) -> None:
        name = self._find(entry)
        if name is not None and name != key(entry):
            self._update(name, entry, machine=entry.machine, at=entry.time)
            return
        if name is not None:
            self._end(name, None)
        self._begin(self._new(entry, machine=entry.machine, since=entry.time))

    def _removed(self, entry: HistoryEntry) -> None:
        name = self._find(entry)
        if name is None:
            self._ended.append(self._new(entry, machine=entry.machine, until=entry.time))
            return
        if _other(self._open[name].machine, entry.machine):
            self._relocate(name, machine=entry.machine, at=None)
        self._end(name, entry.time)

    def _seen(self, entry: HistoryEntry) -> None:
        name = self._find(entry)
        if name is None:
            placement = self._new(entry, machine=entry.machine)
            if entry.type is HistoryType.GPU_MOVED and entry.to == entry.chassis:
                placement = replace(placement, chassis=entry.from_)
            name = self._begin(placement)
        name = self._update(name, entry, machine=entry.machine, at=entry.time)
        if entry.type is HistoryType.GPU_CHANGED and entry.from_ and entry.to == entry.serial:
            placement = self._open[name]
            former = dict.fromkeys((*placement.former_serials, entry.from_))
            self._open[name] = replace(placement, former_serials=tuple(former))

    def _update(
        self, name: Key, seen: GPU | HistoryEntry, *, machine: str | None, at: datetime | None
    ) -> Key:
        """Update the facts of the GPU; `at` is when its place changed, if it did.

        Returns the key of its open placement from now on.
        """
        placement = self._open[name]
        if _other(placement.machine, machine):
            # The time is unknown if the history no longer has the MachineChanged entry.
            change = self._machine_change
            when = change.time if change and change.machine == machine else None
            placement = self._relocate(name, machine=machine, at=when)
        chassis = _chassis(seen)
        if placement.chassis and chassis and placement.chassis != chassis:
            placement = self._relocate(name, chassis=chassis, at=at)
        former = placement.former_serials
        if placement.serial and seen.serial and placement.serial not in (seen.serial, *former):
            former = (*former, placement.serial)
        del self._open[name]
        return self._begin(
            replace(
                placement,
                machine=machine if _known(machine) else placement.machine,
                uuid=seen.uuid or placement.uuid,
                serial=seen.serial or placement.serial,
                chassis=chassis or placement.chassis,
                pci_address=seen.pci_address or placement.pci_address,
                product=seen.product or placement.product,
                former_serials=former,
            )
        )

    def _begin(self, placement: Placement) -> Key:
        self._open[placement.gpu] = placement
        return placement.gpu

    def _relocate(self, name: Key, *, at: datetime | None, **place: str | None) -> Placement:
        """Move the GPU to another machine or chassis (`place`) under the same node name."""
        before = self._open[name]
        self._ended.append(replace(before, until=at))
        now: dict[str, Any] = {"since": at, **place}
        self._open[name] = replace(before, **now)
        return self._open[name]

    def _change_machines(self) -> None:
        change, self._machine_change = self._machine_change, None
        if change is None:
            return
        for name, placement in list(self._open.items()):
            if _other(placement.machine, change.machine):
                self._relocate(name, machine=change.machine, at=change.time)

    def _end(self, name: Key, at: datetime | None) -> None:
        self._ended.append(replace(self._open.pop(name), until=at))

    def _end_all(self, at: datetime | None) -> None:
        for name in list(self._open):
            self._end(name, at)

    def _find(self, seen: GPU | HistoryEntry) -> Key | None:
        """The open placement of this GPU: by identity or, if one side has no UUID, by PCI address
        unless the serial contradicts (plan.identity pairs GPUs in the same way)."""
        name = key(seen)
        if name in self._open:
            return name
        if seen.pci_address is None:
            return None
        for name, placement in self._open.items():
            if (
                placement.pci_address == seen.pci_address
                and None in (placement.uuid, seen.uuid)
                and (None in (placement.serial, seen.serial) or placement.serial == seen.serial)
            ):
                return name
        return None

    def _new(
        self,
        seen: GPU | HistoryEntry,
        *,
        machine: str | None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Placement:
        return Placement(
            node=self._node,
            machine=machine,
            uuid=seen.uuid,
            serial=seen.serial,
            chassis=_chassis(seen),
            pci_address=seen.pci_address,
            product=seen.product,
            since=since,
            until=until,
        )


def _chassis(seen: GPU | HistoryEntry) -> str | None:
    return seen.chassis_serial if isinstance(seen, GPU) else seen.chassis


def _known(machine: str | None) -> bool:
    return machine not in (None, MISSING)


def _other(before: str | None, now: str | None) -> bool:
    """Whether these are two machines; a machine without a providerID matches any."""
    return _known(before) and _known(now) and before != now
