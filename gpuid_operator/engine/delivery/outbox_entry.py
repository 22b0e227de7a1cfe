"""What a channel carries, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gpuid_operator.api.record import Record


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """The records of one history entry of one node."""

    node: str
    uid: str
    sequence: int
    records: tuple[Record, ...]
    is_end: bool = True
    """Whether the entry's last record is among them: with it, the sink has the entry."""


class PendingEntries(Protocol):
    """What a channel asks of the rest of the engine."""

    def outbox_entries(self, node: str, *, after: tuple[str, int] | None) -> list[OutboxEntry]:
        """What the node still has for this sink, oldest first. `after` is the inventory's uid and
        the number of the last entry that was sent but may not be noted yet."""

    def serves(self, outbox_entry: OutboxEntry) -> bool:
        """Whether the sink is in force for the inventory that the parcel is from."""

    def delivered(self, node: str, *, uid: str, up_to: int) -> None:
        """Have noted in the node's inventory of this uid that the sink has every entry up to
        `up_to`."""

    def failed(self, node: str, *, error: str) -> None:
        """Have noted in the node's status why the sink does not take what waits."""


def bisect(
    batch: Sequence[OutboxEntry],
) -> tuple[Sequence[OutboxEntry], Sequence[OutboxEntry]] | None:
    """Two parts of a batch, to be sent one after the other; None for a single record."""
    middle = len(batch) // 2
    if middle:
        return batch[:middle], batch[middle:]
    (outbox_entry,) = batch
    middle = len(outbox_entry.records) // 2
    if not middle:
        return None
    first = replace(outbox_entry, records=outbox_entry.records[:middle], is_end=False)
    return [first], [replace(outbox_entry, records=outbox_entry.records[middle:])]
