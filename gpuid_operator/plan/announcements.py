"""Which history entries become Kubernetes Events, and what the Events say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gpuid_operator.api.inventory import HistoryEntry, HistoryType

WARNINGS: Final = frozenset(
    {
        HistoryType.GPU_REMOVED,
        HistoryType.GPU_LOST,
        HistoryType.CHECK_FAILED,
        HistoryType.EXPECTATION_FAILED,
        HistoryType.GPU_QUARANTINED,
        HistoryType.DROPPED,
    }
)
_CHECKS: Final = frozenset({HistoryType.CHECK_FAILED, HistoryType.CHECK_PASSED})
_QUARANTINE: Final = frozenset({HistoryType.GPU_QUARANTINED, HistoryType.GPU_RELEASED})
_EXPECTATION: Final = frozenset({HistoryType.EXPECTATION_FAILED, HistoryType.EXPECTATION_MET})
_ALWAYS: Final = _CHECKS | _QUARANTINE | _EXPECTATION
"""Types with an Event also where the first read of a node brings them."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """One Event about the entries of one type that one write added to the history."""

    type: HistoryType
    message: str

    @property
    def warning(self) -> bool:
        """Whether it is an Event of type Warning."""
        return self.type in WARNINGS

    @property
    def log_message(self) -> str:
        """The message of the line in the log that has the same content."""
        if self.type in _CHECKS:
            return "recorded check result"
        if self.type in _QUARANTINE:
            return "recorded quarantine"
        if self.type in _EXPECTATION:
            return "recorded expectation"
        return "recorded hardware change"


def announcements(entries: Sequence[HistoryEntry], *, first_read: bool) -> list[Announcement]:
    """The Events for the entries of one write, one per type, in the order of their first entries.

    entry                            | Event
    ---------------------------------|------
    Sighted                          | no: it reports no change
    CheckFailed, CheckPassed         | yes
    GPUQuarantined, GPUReleased      | yes: also where the part comes with a new node
    ExpectationFailed, …Met          | yes: also where the new node is not as expected
    another type, of a first read    | no: a first read finds GPUs, and changes nothing
    another type, of any other write | yes
    """
    by_type: dict[HistoryType, list[HistoryEntry]] = defaultdict(list)
    for entry in entries:
        if entry.type is not HistoryType.SIGHTED and (entry.type in _ALWAYS or not first_read):
            by_type[entry.type].append(entry)
    return [Announcement(type_, event_message(group)) for type_, group in by_type.items()]


def event_message(entries: Sequence[HistoryEntry]) -> str:
    """One sentence for all entries of one type."""
    return "; ".join(map(_describe, entries))


def _describe(entry: HistoryEntry) -> str:
    described = ": ".join(part for part in (_gpu(entry), _change(entry)) if part)
    return described or (f"machine {entry.machine}" if entry.machine else entry.type.value)


def _gpu(entry: HistoryEntry) -> str:
    parts = (
        entry.product if entry.uuid or entry.serial or entry.pci_address else None,
        f"serial {entry.serial}" if entry.serial else None,
        entry.uuid,
        f"at {entry.pci_address}" if entry.pci_address else None,
    )
    return " ".join(part for part in parts if part)


def _change(entry: HistoryEntry) -> str:
    if entry.type in _QUARANTINE:
        return ": ".join(filter(None, (f"quarantine {entry.to or entry.from_}", entry.message)))
    if entry.message or not (entry.from_ or entry.to):
        return entry.message or ""
    return f"from {entry.from_ or 'none'} to {entry.to or 'none'}"
