"""Where a GPU is and was: its placements, and the history entries about it.

A placement is the time that one GPU spent in one place: on one node, one machine, in one chassis.
Because the history is bounded, the beginning or end of a placement can be unknown; it is then
None, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gpuid_operator.api.inventory import (
    GPUState,
    HistoryEntry,
    InventoryStatus,
)
from gpuid_operator.plan.identity import Key, key
from gpuid_operator.plan.labels import label_text

_UUID: Final = re.compile(r"(?:GPU-)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.IGNORECASE)
_EPOCH: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Placement:
    """The time that one GPU spent in one place, and its facts as last known there."""

    node: str
    machine: str | None = None
    uuid: str | None = None
    serial: str | None = None
    chassis: str | None = None
    pci_address: str | None = None
    product: str | None = None
    since: datetime | None = None
    """When the operator first saw the GPU there; None when the history does not reach back so
    far."""
    until: datetime | None = None
    """When the operator found the GPU gone; None while it is present, or when unknown."""
    present: bool = False
    """Whether the last successful read listed the GPU."""
    state: GPUState | None = None
    """State of a present GPU."""
    former_serials: tuple[str, ...] = ()
    """Other serials that the GPU had during this placement."""
    quarantines: tuple[str, ...] = ()
    """Names of the quarantines that list a present GPU."""

    @property
    def gpu(self) -> Key:
        """Identity of the GPU: its UUID, or serial and PCI address."""
        if self.uuid:
            return ("uuid", self.uuid)
        return ("serial", self.serial or "", self.pci_address or "")

    def is_of(self, identifier: str) -> bool:
        """Whether the GPU has this UUID, serial or chassis serial, as reported or as a label
        value."""
        return any(identifier in (name, label_text(name)) for name in self.names)

    @property
    def names(self) -> list[str]:
        """The known identifiers of the GPU: UUID, serial, chassis serial and former serials."""
        return [n for n in (self.uuid, self.serial, self.chassis, *self.former_serials) if n]


def canonical(identifier: str) -> str:
    """An identifier as nvidia-smi writes it: a UUID in lower case with the prefix `GPU-`."""
    identifier = identifier.strip()
    uuid = _UUID.fullmatch(identifier)
    return f"GPU-{uuid[1].lower()}" if uuid else identifier


def newest_first(placements: Sequence[Placement]) -> list[Placement]:
    """Sort by GPU, and the placements of each GPU from the current one to the oldest."""
    by_time = sorted(
        placements,
        key=lambda placement: (
            placement.present,
            placement.until or placement.since or _EPOCH,
            placement.since or _EPOCH,
        ),
        reverse=True,
    )
    return sorted(
        by_time, key=lambda placement: (placement.gpu, placement.node if not placement.uuid else "")
    )


def entries_of(
    identifier: str, status: InventoryStatus, node_placements: Sequence[Placement]
) -> list[HistoryEntry]:
    """The entries of a node's history about the GPUs with this identifier.

    `node_placements` are the placements on that node: they map serials to UUIDs.
    """
    wanted = [placement for placement in node_placements if placement.is_of(identifier)]
    found = {placement.gpu for placement in wanted}
    # Without a UUID, the key has the last PCI address only, so match the serial, too.
    serials = {placement.serial for placement in wanted if not placement.uuid}
    return [
        entry
        for entry in status.history or ()
        if key(entry) in found
        or (entry.uuid is None and entry.serial is not None and entry.serial in serials)
    ]
