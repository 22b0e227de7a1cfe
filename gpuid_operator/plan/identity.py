"""Matches the GPUs of a read with those of the previous read.

The UUID identifies a GPU. Without a UUID, the serial and the PCI address do: the GPUs of one board
share a serial. A GPU whose body nvidia-smi cannot read (because it fell off the bus, for example)
is the one last seen at its PCI address, unless its serial or UUID contradicts.

A known identity fact stays until another value is read: NVML sometimes fails to read one, and an
older driver may not report it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gpuid_operator.api.inventory import GPU, GPUState, HistoryEntry

IDENTITY_FACTS: Final = {
    "uuid": "UUID",
    "serial": "serial",
    "vbios": "VBIOS version",
    "board_part_number": "board part number",
    "gpu_part_number": "GPU part number",
    "chassis_serial": "chassis serial",
}
"""The facts of a GPU that stay known, and their names in messages."""

Key = tuple[str, ...]
"""Identity of a GPU within its node, comparable across reads."""


def key(item: GPU | HistoryEntry) -> Key:
    """Identity of a GPU or of the GPU that an entry is about: the UUID, or serial and PCI
    address."""
    if item.uuid:
        return ("uuid", item.uuid)
    return ("serial", item.serial or "", item.pci_address or "")


@dataclass(frozen=True, slots=True)
class Match:
    """The GPUs of a read compared with those of the previous read."""

    kept: tuple[tuple[GPU, GPU], ...]
    """(before, now) for each GPU that is in both."""
    added: tuple[GPU, ...]
    """GPUs that are new."""
    missing: tuple[GPU, ...]
    """GPUs, as last known, that the read does not list."""
    unread: tuple[tuple[str, GPU], ...] = ()
    """(identity fact, GPU as last known) for each known fact that the read lacks, of GPUs that
    nvidia-smi could read otherwise."""


def match(before: Sequence[GPU], now: Sequence[GPU]) -> Match:
    """Pair the GPUs of two reads.

    GPUs are paired by identity first. A GPU without a UUID in one of the reads is then paired with
    the GPU at the same PCI address, if neither serial nor UUID contradicts.
    """
    by_key: dict[Key, list[GPU]] = {}
    for gpu in before:
        by_key.setdefault(key(gpu), []).append(gpu)
    pairs: dict[int, GPU] = {}
    for position, gpu in enumerate(now):
        if same := by_key.get(key(gpu)):
            pairs[position] = same.pop(0)
    left = [gpu for gpus in by_key.values() for gpu in gpus]
    for position, gpu in enumerate(now) if left else ():
        if position in pairs:
            continue
        old = next((old for old in left if _same_place(old, gpu)), None)
        if old is not None:
            pairs[position] = old
            left.remove(old)
    both = [(pairs[i], gpu) for i, gpu in enumerate(now) if i in pairs]
    return Match(
        kept=tuple((old, _carried(old, gpu)) for old, gpu in both),
        added=tuple(gpu for i, gpu in enumerate(now) if i not in pairs),
        missing=tuple(left),
        unread=tuple(
            (fact, old)
            for old, gpu in both
            if gpu.state is GPUState.OK
            for fact in _unread(old, gpu)
        ),
    )


def _same_place(before: GPU, now: GPU) -> bool:
    return (
        before.pci_address is not None
        and before.pci_address == now.pci_address
        and _agree(before.uuid, now.uuid)
        and _agree(before.serial, now.serial)
    )


def _agree(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one == other


def _carried(before: GPU, now: GPU) -> GPU:
    """The facts of a GPU that was present before.

    A GPU that nvidia-smi cannot read keeps the facts of the last read except its state. Any other
    GPU keeps the identity facts that the read does not have. An unreadable body does not prove that
    a lost GPU is back. The names of quarantines do not come from a read.
    """
    if now.state is not GPUState.OK:
        read = {name: value for name, value in now if value is not None}
        if before.state is GPUState.LOST and now.state is GPUState.UNKNOWN:
            read["state"] = GPUState.LOST
        if before.health is not None and now.health is not None:
            known = {name: value for name, value in now.health if value is not None}
            read["health"] = before.health.model_copy(update=known)
        return before.model_copy(update=read)
    kept: dict[str, object] = {**_unread(before, now)}
    if before.quarantines:
        kept["quarantines"] = before.quarantines
    return now.model_copy(update=kept) if kept else now


def _unread(before: GPU, now: GPU) -> dict[str, str]:
    """The identity facts that were known before and that the read does not have."""
    return {
        fact: known
        for fact in IDENTITY_FACTS
        if (known := getattr(before, fact)) is not None and getattr(now, fact) is None
    }
