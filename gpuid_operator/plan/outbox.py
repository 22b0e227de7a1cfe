"""The status as the outbox: which entries a sink still has to get, and where its cursor stands.

Truth table: which entry gives a record to which sink.

    entry      | records: changes | records: sightings
    -----------|------------------|-------------------
    Sighted    | none             | one per pair seen
    any other  | one              | none
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from gpuid_operator.api.inventory import HistoryEntry, HistoryType, InventoryStatus, SinkStatus
from gpuid_operator.api.values import truncate, whole_seconds

MAX_ERROR = 512


@dataclass(frozen=True, slots=True)
class SinkFilter:
    """What the history needs to know of a sink that is in force for a node."""

    name: str
    type: str
    sightings: bool

    def takes(self, entry: HistoryEntry) -> bool:
        """Whether the entry gives this sink a record."""
        return (entry.type is HistoryType.SIGHTED) is self.sightings


def cursor(status: InventoryStatus, sink_filter: SinkFilter) -> int:
    """Number of the newest entry that the sink has; 0 for a sink that is new to this node."""
    for sink in status.sinks or ():
        if (sink.name, sink.type) == (sink_filter.name, sink_filter.type):
            return sink.delivered_sequence
    return 0


def pending(
    history: Iterable[HistoryEntry], sink_filter: SinkFilter, *, after: int
) -> list[HistoryEntry]:
    """The entries that the sink still has to get, oldest first."""
    return [entry for entry in history if entry.sequence > after and sink_filter.takes(entry)]


def undelivered(
    history: Iterable[HistoryEntry], sink_filters: Sequence[SinkFilter], cursors: Sequence[int]
) -> set[int]:
    """Numbers of the entries that at least one sink still has to get."""
    return {
        entry.sequence
        for entry in history
        for sink_filter, after in zip(sink_filters, cursors, strict=True)
        if entry.sequence > after and sink_filter.takes(entry)
    }


def settle(
    sinks: Sequence[SinkStatus] | None,
    history: Sequence[HistoryEntry],
    *,
    sink_filters: Sequence[SinkFilter],
    sequence: int,
) -> list[SinkStatus]:
    """The cursors of the sinks in force: those of removed sinks go, new ones start before what the
    history holds, and entries that give a sink no record are passed over."""
    known = {(sink.name, sink.type): sink for sink in sinks or ()}
    settled = []
    for sink_filter in sink_filters:
        sink = known.get((sink_filter.name, sink_filter.type)) or SinkStatus(
            name=sink_filter.name, type=sink_filter.type
        )
        waiting = pending(history, sink_filter, after=sink.delivered_sequence)
        reached = waiting[0].sequence - 1 if waiting else sequence
        settled.append(
            sink.model_copy(
                update={
                    "delivered_sequence": reached,
                    "pending": len(waiting),
                }
                | ({} if waiting else {"last_error": None, "since": None})
            )
        )
    return settled


def acknowledged(
    sinks: Sequence[SinkStatus] | None, *, name: str, type_: str, up_to: int, now: datetime
) -> list[SinkStatus]:
    """The cursors after the sink has taken every entry up to `up_to`; a cursor never goes back."""
    now = whole_seconds(now)
    return [
        sink.model_copy(
            update={
                "delivered_sequence": max(up_to, sink.delivered_sequence),
                "last_delivery_time": now,
                "last_error": None,
                "since": None,
            }
        )
        if (sink.name, sink.type) == (name, type_)
        else sink
        for sink in sinks or ()
    ]


def failing(
    sinks: Sequence[SinkStatus] | None,
    *,
    name: str,
    type_: str,
    error: str,
    now: datetime,
) -> list[SinkStatus]:
    """The cursors after an attempt failed; the same error again changes nothing."""
    now = whole_seconds(now)
    return [
        sink.model_copy(
            update={"last_error": truncate(error, MAX_ERROR), "since": sink.since or now}
        )
        if (sink.name, sink.type) == (name, type_) and sink.pending
        else sink
        for sink in sinks or ()
    ]
