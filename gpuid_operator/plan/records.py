"""The records that a history entry gives to a sink."""

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
    """Records of one entry, built from it and from names that never change: whenever they are
    sent, they read the same.

    | entry            | a sink of changes                    | a sink of sightings                |
    |------------------|--------------------------------------|------------------------------------|
    | Sighted          | none                                 | one per item of `seen`, `<id>.<n>` |
    | of a GPU         | one                                  | none                               |
    | of the node      | one, `gpu` na and no uuid            | none                               |

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
