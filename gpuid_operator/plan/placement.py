"""Where a GPU is and was: its stays, and the entries about it.

A stay is the time that one GPU spent in one place: behind one node, one machine, in one chassis.
History is bounded, so a stay's beginning or end may be unknown; that is said, never guessed.
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
    """The time that one GPU spent in one place; its facts as last known there."""

    node: str
    machine: str | None = None
    uuid: str | None = None
    serial: str | None = None
    chassis: str | None = None
    pci_address: str | None = None
    product: str | None = None
    since: datetime | None = None
    """When the operator first saw it there; None when history does not reach back to it."""
    until: datetime | None = None
    """When it was found gone; None while it is there, or when history does not have it."""
    present: bool = False
    """It is there, as far as the last good read tells."""
    state: GPUState | None = None
    """State of a GPU that is there."""
    former_serials: tuple[str, ...] = ()
    """Other serials that it had during this stay."""

    @property
    def gpu(self) -> Key:
        """Which GPU: its UUID, else its serial and address."""
        if self.uuid:
            return ("uuid", self.uuid)
        return ("serial", self.serial or "", self.pci_address or "")

    def is_of(self, identifier: str) -> bool:
        """Whether the GPU has this UUID, serial or chassis serial, in full or as a label has it."""
        names = (self.uuid, self.serial, self.chassis, *self.former_serials)
        return any(name and identifier in (name, label_text(name)) for name in names)


def canonical(identifier: str) -> str:
    """An identifier as nvidia-smi writes it: a UUID in lower case, behind `GPU-`."""
    identifier = identifier.strip()
    uuid = _UUID.fullmatch(identifier)
    return f"GPU-{uuid[1].lower()}" if uuid else identifier


def newest_first(placements: Sequence[Placement]) -> list[Placement]:
    """Sorted for people: by GPU; of each GPU where it is, then where it was last, and so on."""
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
    identifier: str, status: InventoryStatus, stays_there: Sequence[Placement]
) -> list[HistoryEntry]:
    """The entries of a node's history that are about the GPUs with this identifier.

    `stays_there` are the stays behind the node: they tell which UUIDs had a serial.
    """
    wanted = [placement for placement in stays_there if placement.is_of(identifier)]
    found = {placement.gpu for placement in wanted}
    # Without a UUID the key has the PCI address of the end; a serial is as good, for want of more.
    serials = {placement.serial for placement in wanted if not placement.uuid}
    return [
        entry
        for entry in status.history or ()
        if key(entry) in found
        or (entry.uuid is None and entry.serial is not None and entry.serial in serials)
    ]
