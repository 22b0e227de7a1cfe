"""Converts a batch of records into objects: keys and contents.

They depend on the records alone, so that records that are sent twice are stored once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Final

import orjson

from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import ObjectFormat, ObjectSink
from gpuid_operator.api.values import format_time

DEFAULT_PARTITION: Final = "year=%Y/month=%m/day=%d/hour=%H"
_HASH_LENGTH: Final = 32

_CONTENT_TYPES: Final = {
    ObjectFormat.CSV: "text/csv",
    ObjectFormat.JSONL: "application/x-ndjson",
}


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One object to put."""

    key: str
    content: bytes
    content_type: str
    records: int
    """Number of records in it."""


def objects_of(records: Sequence[Record], spec: ObjectSink) -> list[StoredObject]:
    """One object per partition, in the order in which the partitions occur."""
    form = spec.format or ObjectFormat.CSV
    partitions: dict[str, list[Record]] = {}
    for record in records:
        name = record.time.astimezone(UTC).strftime(spec.partition or DEFAULT_PARTITION)
        partitions.setdefault(name, []).append(record)
    return [
        StoredObject(
            key=_key(members, prefix=spec.prefix or "", partition=partition, suffix=form.value),
            content=_csv(members) if form is ObjectFormat.CSV else _json_lines(members),
            content_type=_CONTENT_TYPES[form],
            records=len(members),
        )
        for partition, members in partitions.items()
    ]


def _key(records: Sequence[Record], *, prefix: str, partition: str, suffix: str) -> str:
    """`<prefix>/<partition>/YYYYMMDD-HHMMSS.mmm-<hash of all ids>.<suffix>`."""
    time = records[0].time.astimezone(UTC)
    ids = "\n".join(record.id for record in records)
    digest = hashlib.sha256(ids.encode()).hexdigest()[:_HASH_LENGTH]
    name = f"{time:%Y%m%d-%H%M%S}.{time.microsecond // 1000:03}-{digest}.{suffix}"
    return "/".join([part for part in f"{prefix}/{partition}".split("/") if part] + [name])


def _csv(records: Sequence[Record]) -> bytes:
    """gpuid's layout: no header, cluster, node, machine, source, chassis, gpu, time."""
    rows = (
        (r.cluster, r.node, r.machine, r.source, r.chassis, r.gpu, format_time(r.time))
        for r in records
    )
    return "".join(",".join(map(_field, row)) + "\n" for row in rows).encode()


def _field(value: str) -> str:
    """A field, quoted if Go's encoding/csv quotes it, for example because of a leading space."""
    if value == r"\." or value[:1].isspace() or any(c in value for c in ',"\r\n'):
        return '"' + value.replace('"', '""') + '"'
    return value


def _json_lines(records: Sequence[Record]) -> bytes:
    return b"".join(orjson.dumps(r.to_json(), option=orjson.OPT_APPEND_NEWLINE) for r in records)
