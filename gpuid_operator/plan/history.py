"""The bounds of a history: which entries it keeps, and which it drops when a sink is down too
long."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from gpuid_operator.api.inventory import GPU, HistoryEntry, HistoryType
from gpuid_operator.api.meta import MAX_FROM_TO, MAX_HISTORY, MAX_MESSAGE
from gpuid_operator.plan.diff import HistoryWriter
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
"""Types of entries about the place and identity of GPUs; the others are about their condition."""

_ADDED: Final = HistoryType.GPU_ADDED
_REMOVED: Final = HistoryType.GPU_REMOVED
# Fewer digits than a user could write into an entry, so that the texts that are made of them fit.
_COUNT: Final = re.compile(r"(\w+)=([0-9]{1,15})")
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_REST: Final = "Others"
_QUARANTINE: Final = frozenset({HistoryType.GPU_QUARANTINED, HistoryType.GPU_RELEASED})
_NOT_OTHER: Final = IDENTITY | _QUARANTINE | {HistoryType.SIGHTED, HistoryType.DROPPED}

KEPT_IDENTITY: Final = 50
KEPT_QUARANTINE: Final = 20
KEPT_OTHERS: Final = 20
KEPT_SIGHTED: Final = 5
KEPT_DEPARTED_UUIDS: Final = 50
MAX_UNDELIVERED_SIGHTED: Final = 40
MAX_HISTORY_BYTES: Final = 448 * 1024
"""Bytes that the entries may take in the stored object: etcd's limit of 1.5 MiB leaves no more
beside 64 GPUs and 16 full checks. 500 entries of usual length take half of that."""
SURELY_SMALL: Final = 100
"""A history of at most this many entries is never too large."""


def bounded(
    history: Sequence[HistoryEntry],
    *,
    gpus: Iterable[GPU],
    present: bool,
    waiting: Collection[int],
    writer: HistoryWriter,
) -> list[HistoryEntry]:
    """Bound the history by number and size of its entries.

    `waiting` holds the sequences of the entries that a sink has not received yet. The history keeps
    them until they exceed its bounds; then one `Dropped` entry from `writer` replaces the oldest.
    The history of a departed node (`present` is false) keeps only `waiting` and the entries about
    identity and quarantine.
    """
    anchors = _anchors(history, gpus) if present else set()
    keep = anchors | set(waiting)
    newest = history[::-1]
    keep |= _newest(newest, lambda entry: entry.type in IDENTITY, KEPT_IDENTITY)
    keep |= _newest(newest, lambda entry: entry.type in _QUARANTINE, KEPT_QUARANTINE)
    if present:
        keep |= _newest(newest, _is_other, KEPT_OTHERS)
        keep |= _newest(newest, lambda entry: entry.type is HistoryType.SIGHTED, KEPT_SIGHTED)
        keep |= _newest(newest, lambda entry: entry.type is HistoryType.DROPPED, 1)
    keep |= _departures(newest)
    kept = [entry for entry in history if entry.sequence in keep]
    victims = _overflow(kept, anchors=anchors, waiting=waiting)
    if not victims:
        return kept
    dropped = _dropped(writer, victims, waiting=waiting)
    gone = {entry.sequence for entry in victims}
    # A GPUAdded whose GPURemoved was dropped would claim that the GPU is still there.
    left = {key(entry): entry.sequence for entry in victims if entry.type is _REMOVED}
    kept = [entry for entry in kept if entry.sequence not in gone]
    return [e for e in kept if e.type is not _ADDED or e.sequence > left.get(key(e), 0)] + [dropped]


def _is_other(entry: HistoryEntry) -> bool:
    return entry.type not in _NOT_OTHER


def _newest(
    newest_first: Sequence[HistoryEntry], wanted: Callable[[HistoryEntry], bool], count: int
) -> set[int]:
    return {entry.sequence for entry in [e for e in newest_first if wanted(e)][:count]}


def _anchors(history: Sequence[HistoryEntry], gpus: Iterable[GPU]) -> set[int]:
    """The newest `GPUAdded` of every present GPU: a new sink learns about the GPU from it."""
    added = {key(entry): entry.sequence for entry in history if entry.type is _ADDED}
    return {added[name] for name in map(key, gpus) if name in added}


def _departures(newest_first: Sequence[HistoryEntry]) -> set[int]:
    """The newest `GPURemoved` of each of the KEPT_DEPARTED_UUIDS GPUs removed last."""
    last: dict[Key, int] = {}
    for entry in newest_first:
        if entry.type is _REMOVED and len(last) < KEPT_DEPARTED_UUIDS:
            last.setdefault(key(entry), entry.sequence)
    return set(last.values())


def _overflow(
    kept: Sequence[HistoryEntry], *, anchors: Collection[int], waiting: Collection[int]
) -> list[HistoryEntry]:
    """The waiting entries to drop, oldest first, and any earlier `Dropped` entry, so that one entry
    counts all."""
    candidates = [
        entry for entry in kept if entry.sequence in waiting and entry.sequence not in anchors
    ]
    sighted = [entry for entry in candidates if entry.type is HistoryType.SIGHTED]
    victims = {
        entry.sequence for entry in sighted[: max(0, len(sighted) - MAX_UNDELIVERED_SIGHTED)]
    }
    left = [entry for entry in kept if entry.sequence not in victims]
    count = len(left)
    size = sum(map(_size, left)) if count > SURELY_SMALL else 0
    # The new Dropped entry needs one place and takes that of an earlier one.
    earlier = [entry for entry in kept if entry.type is HistoryType.DROPPED]
    if count > MAX_HISTORY or size > MAX_HISTORY_BYTES or (victims and count == MAX_HISTORY):
        count -= len(earlier)
        for entry in candidates:
            if count < MAX_HISTORY and size <= MAX_HISTORY_BYTES:
                break
            if entry.sequence not in victims and entry.type is not HistoryType.DROPPED:
                victims.add(entry.sequence)
                count -= 1
                size -= _size(entry) if size else 0
    if not victims:
        return []
    victims |= {entry.sequence for entry in earlier}
    return [entry for entry in kept if entry.sequence in victims]


def _dropped(
    writer: HistoryWriter, victims: Sequence[HistoryEntry], *, waiting: Collection[int]
) -> HistoryEntry:
    """The entry that replaces the victims: `from` is the range of their sequences, `to` the number
    of each type. It includes an earlier `Dropped` of the same outage, but not one that every sink
    has received."""
    counts: Counter[str] = Counter()
    span: list[int] = []
    for entry in victims:
        if entry.type is not HistoryType.DROPPED:
            counts[entry.type.value] += 1
            span.append(entry.sequence)
        elif min(waiting) <= entry.sequence:
            counts.update({name: int(n) for name, n in _COUNT.findall(entry.message or "")})
            span.extend(map(int, _NUMBER.findall(entry.from_ or "")))
    total = f"dropped {counts.total()} entries that not every sink had received: "
    return writer.entry(
        HistoryType.DROPPED,
        from_=f"{min(span)}-{max(span)}",
        to=_summary(counts, MAX_FROM_TO),
        message=total + _summary(counts, MAX_MESSAGE - len(total)),
    )


def _size(entry: HistoryEntry) -> int:
    """Bytes of an entry as the API server stores it, where `<` is written as `\\u003c`."""
    text = entry.model_dump_json(by_alias=True, exclude_none=True)
    return len(text.encode()) + 5 * sum(map(text.count, "<>&"))


def _summary(counts: Counter[str], limit: int) -> str:
    """The number of each type, most frequent first, within `limit` characters; types that do not
    fit are counted together."""
    named = [(name, count) for name, count in counts.most_common() if name != _REST]
    rest = counts[_REST]
    while True:
        parts = [f"{name}={count}" for name, count in named]
        text = " ".join([*parts, f"{_REST}={rest}"] if rest else parts)
        if len(text) <= limit:
            return text
        rest += named.pop()[1]
