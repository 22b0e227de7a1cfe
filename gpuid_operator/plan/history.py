"""The bounds of a node's history: what is kept, and what gives way when a sink is away too long."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from gpuid_operator.api.inventory import GPU, HistoryEntry, HistoryType
from gpuid_operator.api.meta import MAX_HISTORY
from gpuid_operator.plan.diff import Scribe
from gpuid_operator.plan.identity import Key, key

IDENTITY: Final = frozenset(
    {
        HistoryType.GPU_ADDED,
        HistoryType.GPU_REMOVED,
        HistoryType.GPU_MOVED,
        HistoryType.GPU_CHANGED,
        HistoryType.MACHINE_CHANGED,
        HistoryType.NODE_DEPARTED,
        HistoryType.NODE_RETURNED,
    }
)
"""Types that say which GPU was where; the rest tell how it fared."""

KEPT_IDENTITY: Final = 50
KEPT_OTHERS: Final = 20
KEPT_SIGHTED: Final = 5
KEPT_DEPARTED_UUIDS: Final = 50
MAX_UNDELIVERED_SIGHTED: Final = 40


def bounded(
    history: Sequence[HistoryEntry],
    *,
    gpus: Iterable[GPU],
    present: bool,
    waiting: Collection[int],
    scribe: Scribe,
) -> list[HistoryEntry]:
    """The history within its bounds.

    `waiting` holds the numbers of the entries that a sink has yet to get. They stay, until there
    are more than fit: then the oldest give way to one `Dropped` entry, which `scribe` numbers.
    Of a departed node (`present` false) only identity entries stay, and what is waiting.
    """
    anchors = _anchors(history, gpus) if present else set()
    keep = anchors | set(waiting)
    newest = history[::-1]
    keep |= _newest(newest, lambda entry: entry.type in IDENTITY, KEPT_IDENTITY)
    if present:
        keep |= _newest(newest, _is_other, KEPT_OTHERS)
        keep |= _newest(newest, lambda entry: entry.type is HistoryType.SIGHTED, KEPT_SIGHTED)
        keep |= _newest(newest, lambda entry: entry.type is HistoryType.DROPPED, 1)
    keep |= _departures(newest)
    kept = [entry for entry in history if entry.sequence in keep]
    victims = _overflow(kept, anchors=anchors, waiting=waiting)
    if not victims:
        return kept
    dropped = _dropped(scribe, victims)
    gone = {entry.sequence for entry in victims}
    return [entry for entry in kept if entry.sequence not in gone] + [dropped]


def _is_other(entry: HistoryEntry) -> bool:
    return entry.type not in IDENTITY | {HistoryType.SIGHTED, HistoryType.DROPPED}


def _newest(
    newest_first: Sequence[HistoryEntry], wanted: Callable[[HistoryEntry], bool], count: int
) -> set[int]:
    return {entry.sequence for entry in [e for e in newest_first if wanted(e)][:count]}


def _anchors(history: Sequence[HistoryEntry], gpus: Iterable[GPU]) -> set[int]:
    """The newest `GPUAdded` of every GPU that is there: a new sink learns of it from them."""
    added = {key(entry): entry.sequence for entry in history if entry.type is HistoryType.GPU_ADDED}
    anchors = set()
    for gpu in gpus:
        # The UUID of a GPU may have become readable only after it was added.
        names = (key(gpu), ("serial", gpu.serial or "", gpu.pci_address or ""))
        anchors |= {added[name] for name in names if name in added}
    return anchors


def _departures(newest_first: Sequence[HistoryEntry]) -> set[int]:
    """The newest removal of each of the last UUIDs that left."""
    last: dict[Key, int] = {}
    for entry in newest_first:
        if entry.type is HistoryType.GPU_REMOVED and len(last) < KEPT_DEPARTED_UUIDS:
            last.setdefault(key(entry), entry.sequence)
    return set(last.values())


def _overflow(
    kept: Sequence[HistoryEntry], *, anchors: Collection[int], waiting: Collection[int]
) -> list[HistoryEntry]:
    """The waiting entries that have to give way, oldest first; an earlier `Dropped` goes with them,
    so that one entry counts all."""
    candidates = [
        entry for entry in kept if entry.sequence in waiting and entry.sequence not in anchors
    ]
    sighted = [entry for entry in candidates if entry.type is HistoryType.SIGHTED]
    victims = {
        entry.sequence for entry in sighted[: max(0, len(sighted) - MAX_UNDELIVERED_SIGHTED)]
    }
    # One place is for the Dropped entry itself, which an earlier one vacates.
    earlier = [entry for entry in kept if entry.type is HistoryType.DROPPED]
    size = len(kept) - len(victims)
    if size > MAX_HISTORY or (victims and size >= MAX_HISTORY):
        room = MAX_HISTORY - 1
        size -= len(earlier)
        for entry in candidates:
            if size <= room:
                break
            if entry.sequence not in victims and entry.type is not HistoryType.DROPPED:
                victims.add(entry.sequence)
                size -= 1
    if not victims:
        return []
    victims |= {entry.sequence for entry in earlier}
    return [entry for entry in kept if entry.sequence in victims]


_COUNT: Final = re.compile(r"(\w+)=(\d+)")


def _dropped(scribe: Scribe, victims: Sequence[HistoryEntry]) -> HistoryEntry:
    """One entry in place of the victims: `from` has the numbers of the first and last that gave
    way, `to` how many of each type, with those that an earlier `Dropped` counted."""
    counts: Counter[str] = Counter()
    first, last = victims[0].sequence, victims[-1].sequence
    for entry in victims:
        if entry.type is HistoryType.DROPPED:
            for name, count in _COUNT.findall(entry.to or ""):
                counts[name] += int(count)
            start = (entry.from_ or "").partition("-")[0]
            first = min(first, int(start)) if start.isdigit() else first
        else:
            counts[entry.type.value] += 1
            last = entry.sequence
    summary = " ".join(f"{name}={counts[name]}" for name in sorted(counts))
    return scribe.entry(
        HistoryType.DROPPED,
        from_=f"{first}-{last}",
        to=summary,
        message=f"{counts.total()} entries gave way before every sink had them: {summary}",
    )
