"""The records of a history entry."""

from __future__ import annotations

from typing import Final

from gpuid_operator.api.inventory import HistoryEntry, HistoryType
from gpuid_operator.api.record import Record

NO_CHASSIS: Final = "unknown"
NO_GPU: Final = "na"
NO_MACHINE: Final = "na"


def records_for(
    entry: HistoryEntry, *, sightings: bool, inventory_uid: str, node: str, cluster: str
) -> list[Record]:
    """The records of one entry for one kind of sink.

    They depend only on the entry and on names that never change, so that repeated deliveries send
    identical records.

    | entry            | a sink of changes                    | a sink of sightings                |
    |------------------|--------------------------------------|------------------------------------|
    | Sighted          | none                                 | one per item of `seen`, `<id>.<n>` |
    | about a GPU      | one                                  | none                               |
    | about the node   | one, `gpu` na and no uuid            | none                               |

    `<id>` is `<inventory uid>.<sequence>.<unix seconds>`; n counts the items of `seen` from 0.
    """
    sighted = entry.type is HistoryType.SIGHTED
    if sighted is not sightings:
        return []
    base = f"{inventory_uid}.{entry.sequence}.{int(entry.time.timestamp())}"
    if sighted:
        pairs = [
            (f"{base}.{n}", seen.chassis, seen.serial) for n, seen in enumerate(entry.seen or [])
        ]
    else:
        pairs = [(base, entry.chassis, entry.serial)]
    return [
        Record(
            id=record_id,
            event=entry.type.value,
            cluster=cluster,
            node=node,
            machine=entry.machine or NO_MACHINE,
            source=entry.source or "",
            chassis=chassis or NO_CHASSIS,
            gpu=serial or NO_GPU,
            time=entry.time,
            uuid=entry.uuid,
            pci=entry.pci_address,
            product=entry.product,
            driver=entry.driver,
            sequence=entry.sequence,
            from_=entry.from_,
            to=entry.to,
        )
        for record_id, chassis, serial in pairs
    ]
