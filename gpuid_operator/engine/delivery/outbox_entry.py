"""One history entry on its way to a sink, and the two ends of that way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from gpuid_operator.api.record import Record


class Position(NamedTuple):
    """A place in the history of one inventory."""

    uid: str
    """The inventory's uid: a later object of the same name counts its entries from 1 again."""
    sequence: int


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """The records of one history entry of one node."""

    node: str
    uid: str
    sequence: int
    records: tuple[Record, ...]
    is_end: bool = True
    """Whether it holds the entry's last record: with that, the sink has the entry."""

    @property
    def position(self) -> Position:
        return Position(self.uid, self.sequence)

    def is_covered_by(self, position: Position | None) -> bool:
        """Whether a sink that has its node's history up to a position has this entry."""
        if position is None:
            return False
        return self.uid == position.uid and self.sequence <= position.sequence


class PendingEntries(Protocol):
    """Where the records of one sink come from."""

    def list_entries(self, node: str, *, after: Position | None) -> list[OutboxEntry]:
        """Returns what the node still has for this sink, oldest first.

        `after` is the last entry that was sent; its cursor may not be written yet.
        """

    def serves(self, entry: OutboxEntry) -> bool:
        """Whether the sink still applies to the inventory that the entry is from."""


class DeliveryStatus(Protocol):
    """Where the result of deliveries to one sink goes. Its methods do not wait."""

    def delivered(self, node: str, position: Position, *, written: Callable[[], None]) -> None:
        """The sink has every entry up to this position. Calls `written` when the cursor is in the
        status, or the status must not have it: the inventory was replaced, or is skipped."""

    def failed(self, node: str, *, error: str) -> None:
        """The sink does not accept what is pending for the node."""


def bisect(batch: Sequence[OutboxEntry]) -> tuple[Sequence[OutboxEntry], Sequence[OutboxEntry]]:
    """Splits a batch of more than one record into two, to be sent one after the other."""
    middle = len(batch) // 2
    if middle:
        return batch[:middle], batch[middle:]
    (entry,) = batch
    middle = len(entry.records) // 2
    first = replace(entry, records=entry.records[:middle], is_end=False)
    return [first], [replace(entry, records=entry.records[middle:])]


def records_of(batch: Sequence[OutboxEntry]) -> list[Record]:
    """Returns the records of a batch in their order."""
    return [record for entry in batch for record in entry.records]
