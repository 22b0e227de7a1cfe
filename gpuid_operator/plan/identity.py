"""Which GPU of a read is which GPU of the last one.

A GPU is its UUID. Without one it is its serial at its PCI address, since GPUs of one board share a
serial. A GPU whose body could not be read (off the bus, say) is the one that was last seen at its
PCI address, unless what can be read of it says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuid_operator.api.inventory import GPU, GPUState, HistoryEntry

Key = tuple[str, ...]
"""Identity of a GPU within its node, comparable over reads."""


def key(item: GPU | HistoryEntry) -> Key:
    """Identity of a GPU, or of the GPU that an entry is about: UUID, else serial and address."""
    if item.uuid:
        return ("uuid", item.uuid)
    return ("serial", item.serial or "", item.pci_address or "")


@dataclass(frozen=True, slots=True)
class Match:
    """The GPUs of a read held against those of the last one."""

    kept: tuple[tuple[GPU, GPU], ...]
    """(before, now) of each GPU that is there still."""
    added: tuple[GPU, ...]
    """GPUs that were not there."""
    missing: tuple[GPU, ...]
    """GPUs, as last known, that the read does not have."""


def match(before: Sequence[GPU], now: Sequence[GPU]) -> Match:
    """Pair the GPUs of two reads.

    First by identity; then a GPU that gives no UUID now, or gave none before, is paired with the
    one at its PCI address, if neither serial nor UUID contradict.
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
    """What is known of a GPU that was there before.

    A GPU that could not be read keeps the facts that were last read, but for its state; one that
    gives no identity any more keeps that by which it was recognised. A body that cannot be read
    is no proof that a lost GPU is back.
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
