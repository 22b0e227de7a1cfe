"""The names of quarantines on the GPUs of a node, and the entries and the condition that follow.

Every change of a status passes here, so that a part in quarantine has its mark in the same write
that brings the part.

    the GPU                             | entry
    ------------------------------------|---------------------------------------------
    gets a name                         | `GPUQuarantined`
    loses a name, and is still there    | `GPUReleased`
    left, or the node departed          | none: `GPURemoved` says so
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gpuid_operator.api.inventory import (
    GPU,
    ConditionStatus,
    ConditionType,
    HistoryEntry,
    HistoryType,
    InventoryStatus,
)
from gpuid_operator.plan.conditions import ConditionUpdate, find
from gpuid_operator.plan.diff import HistoryWriter
from gpuid_operator.plan.identity import key
from gpuid_operator.plan.quarantine import QuarantineIndex


@dataclass(frozen=True, slots=True)
class Marks:
    """What the quarantines change in a status."""

    gpus: list[GPU] | None
    """The GPUs with their marks; None where there are no GPUs."""
    entries: tuple[HistoryEntry, ...] = ()
    condition: ConditionUpdate | None = None
    """The next condition `Quarantined`; None where it stays as it is."""


def mark(
    previous: InventoryStatus,
    gpus: Sequence[GPU] | None,
    *,
    present: bool,
    index: QuarantineIndex | None,
    at: datetime,
    writer: HistoryWriter,
) -> Marks:
    """Mark the GPUs of a status. They have the marks of `previous`, those of a new read, too.

    `index` is None while the quarantines are not known, `at` is the time by which they end;
    `present` is false for a node that is gone.
    """
    if gpus is None:
        return Marks(None)
    if not present:
        return _departed(previous, gpus)
    if index is None:
        return _unknown(previous, list(gpus))
    marked, entries = [], []
    for gpu in gpus:
        before, after = gpu.quarantines or [], index.names(gpu, now=at)
        for name in before:
            if name not in after:
                reason = _recorded_reason(previous, gpu, name)
                entries.append(
                    writer.entry(HistoryType.GPU_RELEASED, gpu, from_=name, message=reason)
                )
        for name in after:
            if name not in before:
                reason = index.rules[name].reason
                entries.append(
                    writer.entry(HistoryType.GPU_QUARANTINED, gpu, to=name, message=reason)
                )
        marked.append(_with_names(gpu, after))
    return Marks(marked, tuple(entries), _condition(previous, marked, index=index))


def _departed(previous: InventoryStatus, gpus: Sequence[GPU]) -> Marks:
    condition = None
    if find(previous.conditions, ConditionType.QUARANTINED) is not None:
        condition = ConditionUpdate(
            ConditionStatus.FALSE,
            "NodeDeparted",
            "the node is gone; its GPUs count where they turn up",
        )
    return Marks([_with_names(gpu, []) for gpu in gpus], condition=condition)


def _unknown(previous: InventoryStatus, gpus: list[GPU]) -> Marks:
    """The marks stay; the condition only changes with the GPUs that have them."""
    if _marks(gpus) == _marks(previous.gpus or ()):
        return Marks(gpus)
    return Marks(gpus, condition=_condition(previous, gpus, index=None))


def _marks(gpus: Sequence[GPU]) -> list[tuple[object, ...]]:
    return [(*key(gpu), *gpu.quarantines) for gpu in gpus if gpu.quarantines]


def _with_names(gpu: GPU, names: list[str]) -> GPU:
    if names == (gpu.quarantines or []):
        return gpu
    return gpu.model_copy(update={"quarantines": names or None})


def _condition(
    previous: InventoryStatus, gpus: Sequence[GPU], *, index: QuarantineIndex | None
) -> ConditionUpdate | None:
    """Whether GPUs of the node are in quarantine; None for a node that never had any."""
    by_name: dict[str, list[GPU]] = {}
    for gpu in gpus:
        for name in gpu.quarantines or ():
            by_name.setdefault(name, []).append(gpu)
    if not by_name:
        if find(previous.conditions, ConditionType.QUARANTINED) is None:
            return None
        return ConditionUpdate(
            ConditionStatus.FALSE, "Released", "no GPU of the node is in quarantine any more"
        )
    described = []
    for name, marked in sorted(by_name.items()):
        rule = index.rules.get(name) if index is not None else None
        reason = rule.reason if rule else _recorded_reason(previous, marked[0], name)
        named = f"{name} ({reason})" if reason else name
        described.append(f"{named}: {', '.join(map(_describe, marked))}")
    return ConditionUpdate(ConditionStatus.TRUE, "Quarantined", "; ".join(described))


def _describe(gpu: GPU) -> str:
    parts = (gpu.uuid or gpu.pci_address, f"serial {gpu.serial}" if gpu.serial else None)
    return " ".join(filter(None, parts))


def _recorded_reason(previous: InventoryStatus, gpu: GPU, name: str) -> str | None:
    """The reason that the history has for a mark, unless the entry is gone by now."""
    for entry in reversed(previous.history or ()):
        if (
            entry.type is HistoryType.GPU_QUARANTINED
            and entry.to == name
            and key(entry) == key(gpu)
        ):
            return entry.message
    return None
