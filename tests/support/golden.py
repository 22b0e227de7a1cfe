"""History entries as they stand in a status, for the records that tests write out by hand."""

from __future__ import annotations

from typing import Final

from gpuid_operator.api.inventory import HistoryEntry
from gpuid_operator.api.record import Record
from gpuid_operator.plan.records import records_for

UID: Final = "8f14e45f-ceea-467f-a0e6-5d1f8b2f6c11"
NODE: Final = "gpu-node-01"
CLUSTER: Final = "prod/eu"

MOVED: Final = {
    "sequence": 7,
    "time": "2026-06-07T10:30:45Z",
    "type": "GPUMoved",
    "uuid": "GPU-25e04bdf-1c2d-4e3f-8a9b-0c1d2e3f4a5b",
    "serial": "1761025346025",
    "pciAddress": "00000000:2A:00.0",
    "chassis": "1821325191344",
    "machine": "i-1234567890abcdef0",
    "source": "gpu-operator/nvidia-device-plugin-abc",
    "product": "NVIDIA GB200",
    "driver": "570.148.08",
    "from": "00000000:29:00.0",
    "to": "00000000:2A:00.0",
    "message": "moved",
}
"""A change of one GPU, in which no field is absent."""

SIGHTED: Final = {
    "sequence": 8,
    "time": "2026-06-07T10:30:45Z",
    "type": "Sighted",
    "machine": "i-1234567890abcdef0",
    "source": "gpu-operator/nvidia-device-plugin-abc",
    "driver": "570.148.08",
    "seen": [{"chassis": "1821325191344", "serial": "1761025346025"}, {"serial": "17,61"}],
}
"""A sighting of two GPUs: one has no chassis, and a comma in its serial."""

RECORD: Final = (
    b'{"id":"8f14e45f-ceea-467f-a0e6-5d1f8b2f6c11.7.1780828245","event":"GPUMoved",'
    b'"cluster":"prod/eu","node":"gpu-node-01","machine":"i-1234567890abcdef0",'
    b'"source":"gpu-operator/nvidia-device-plugin-abc","chassis":"1821325191344",'
    b'"gpu":"1761025346025","time":"2026-06-07T10:30:45Z",'
    b'"uuid":"GPU-25e04bdf-1c2d-4e3f-8a9b-0c1d2e3f4a5b","pci":"00000000:2A:00.0",'
    b'"product":"NVIDIA GB200","driver":"570.148.08","sequence":7,'
    b'"from":"00000000:29:00.0","to":"00000000:2A:00.0"}'
)
"""The record of MOVED. Written out by hand, as all bytes here."""

CSV: Final = (
    b"prod/eu,gpu-node-01,i-1234567890abcdef0,gpu-operator/nvidia-device-plugin-abc,"
    b"1821325191344,1761025346025,2026-06-07T10:30:45Z\n"
    b"prod/eu,gpu-node-01,i-1234567890abcdef0,gpu-operator/nvidia-device-plugin-abc,"
    b'unknown,"17,61",2026-06-07T10:30:45Z\n'
)
"""The CSV of SIGHTED."""

_HOUR: Final = "year=2026/month=06/day=07/hour=10/20260607-103045.000-"
JSONL_KEY: Final = f"{_HOUR}0142e667737cc4dccf815ca60df827cb.jsonl"
CSV_KEY: Final = f"{_HOUR}a8e7797aa1c8db1be439229435c9888a.csv"
"""Keys of objects with MOVED and SIGHTED; `printf '<ids, one a line>' | sha256sum`."""


def records(entry: dict[str, object], *, sightings: bool = False) -> list[Record]:
    """The records of an entry, as a sink gets them."""
    return records_for(
        HistoryEntry.model_validate(entry),
        sightings=sightings,
        inventory_uid=UID,
        node=NODE,
        cluster=CLUSTER,
    )
