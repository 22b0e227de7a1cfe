"""What a channel carries, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gpuid_operator.api.record import Record


@dataclass(frozen=True, slots=True)
class Parcel:
    """The records of one history entry of one node."""

    node: str
    uid: str
    sequence: int
    records: tuple[Record, ...]
    is_end: bool = True
    """Whether the entry's last record is among them: with it, the sink has the entry."""


class Outbox(Protocol):
    """What a channel asks of the rest of the engine."""

    def parcels(self, node: str, *, after: tuple[str, int] | None) -> list[Parcel]:
        """What the node still has for this sink, oldest first. `after` is the inventory's uid and
        the number of the last entry that was sent but may not be noted yet."""

    def serves(self, parcel: Parcel) -> bool:
        """Whether the sink is in force for the inventory that the parcel is from."""

    def delivered(self, node: str, *, uid: str, upto: int) -> None:
        """Have noted in the node's inventory of this uid that the sink has every entry up to
        `upto`."""

    def failed(self, node: str, *, error: str) -> None:
        """Have noted in the node's status why the sink does not take what waits."""


def halves(batch: Sequence[Parcel]) -> tuple[Sequence[Parcel], Sequence[Parcel]] | None:
    """Two parts of a batch, to be sent one after the other; None for a single record."""
    middle = len(batch) // 2
    if middle:
        return batch[:middle], batch[middle:]
    (parcel,) = batch
    middle = len(parcel.records) // 2
    if not middle:
        return None
    first = replace(parcel, records=parcel.records[:middle], is_end=False)
    return [first], [replace(parcel, records=parcel.records[middle:])]
