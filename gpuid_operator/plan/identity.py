"""Matches the GPUs of a read with those of the previous read.

The UUID identifies a GPU. Without a UUID, the serial and the PCI address do: the GPUs of one board
share a serial. A GPU whose body nvidia-smi cannot read (because it fell off the bus, for example)
is the one last seen at its PCI address, unless its serial or UUID contradicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuid_operator.api.inventory import GPU, GPUState, HistoryEntry

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
    return Match(
        kept=tuple((pairs[i], _carried(pairs[i], gpu)) for i, gpu in enumerate(now) if i in pairs),
        added=tuple(gpu for i, gpu in enumerate(now) if i not in pairs),
        missing=tuple(left),
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

    A GPU that nvidia-smi cannot read keeps the facts of the last read except its state. A GPU that
    no longer reports an identity keeps the known one. An unreadable body does not prove that a
    lost GPU is back.
    """
    if now.state is not GPUState.OK:
        read = {name: value for name, value in now if value is not None}
        if before.state is GPUState.LOST and now.state is GPUState.UNKNOWN:
            read["state"] = GPUState.LOST
        if before.health is not None and now.health is not None:
            known = {name: value for name, value in now.health if value is not None}
            read["health"] = before.health.model_copy(update=known)
        return before.model_copy(update=read)
    if now.uuid is None and before.uuid is not None:
        return now.model_copy(update={"uuid": before.uuid})
    if now.uuid is None and now.serial is None and before.serial is not None:
        return now.model_copy(update={"serial": before.serial})
    return now
