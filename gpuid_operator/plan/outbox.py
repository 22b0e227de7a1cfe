"""The status as an outbox: the pending entries and the cursor of each sink.

Truth table: the records that a sink gets for an entry.

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
    """The properties of a sink that decide which entries it gets."""

    name: str
    type: str
    sightings: bool

    def takes(self, entry: HistoryEntry) -> bool:
        """Whether this sink gets a record for the entry."""
        return (entry.type is HistoryType.SIGHTED) is self.sightings


def cursor(status: InventoryStatus, sink_filter: SinkFilter) -> int:
    """Sequence of the newest delivered entry; 0 for a sink that is new to this node."""
    for sink in status.sinks or ():
        if (sink.name, sink.type) == (sink_filter.name, sink_filter.type):
            return sink.delivered_sequence
    return 0


def pending(
    history: Iterable[HistoryEntry], sink_filter: SinkFilter, *, after: int
) -> list[HistoryEntry]:
    """The entries that the sink has not received yet, oldest first."""
    return [entry for entry in history if entry.sequence > after and sink_filter.takes(entry)]


def undelivered(
    history: Iterable[HistoryEntry], sink_filters: Sequence[SinkFilter], cursors: Sequence[int]
) -> set[int]:
    """Sequences of the entries that at least one sink has not received yet."""
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
    """The cursors of the configured sinks. Cursors of removed sinks are dropped, cursors of new
    sinks start before the oldest entry, and a cursor skips entries that its sink does not take."""
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
    """The cursors after the sink accepted every entry up to `up_to`; a cursor never moves back."""
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
    """The cursors after a failed attempt; a repeated error changes nothing."""
    now = whole_seconds(now)
    return [
        sink.model_copy(
            update={"last_error": truncate(error, MAX_ERROR), "since": sink.since or now}
        )
        if (sink.name, sink.type) == (name, type_) and sink.pending
        else sink
        for sink in sinks or ()
    ]
