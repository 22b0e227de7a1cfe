"""The stdout sink: what it hands to the log."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import Sink
from gpuid_operator.sinks import base
from gpuid_operator.sinks.base import Unavailable
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.opening import RecordWriter, SinkContext
from gpuid_operator.sinks.registry import open_sink
from gpuid_operator.sinks.secrets import EnvironmentSecrets

RECORD = Record(
    id="u.1.1",
    event="GPUAdded",
    cluster="prod",
    node="n",
    machine="i-1",
    source="ns/pod",
    chassis="unknown",
    gpu="1",
    time=datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC),
    sequence=1,
)


def _open(write_records: RecordWriter) -> base.Sink:
    return open_sink(
        Sink.model_validate({"name": "logs", "stdout": {}}),
        secrets=EnvironmentSecrets({}),
        context=SinkContext(http=HTTPClient(), write_records=write_records),
    )


async def test_each_record_is_written_in_its_order() -> None:
    lines: list[str] = []
    sink = _open(lambda records: lines.extend(json.dumps(dict(record)) for record in records))
    second = RECORD.model_copy(update={"id": "u.2.1"})
    await sink.send([RECORD, second])
    await sink.close()
    assert [json.loads(line) for line in lines] == [RECORD.to_json(), second.to_json()]


async def test_a_full_disk_is_temporary() -> None:
    def full(_records: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(Unavailable, match="No space left") as caught:
        await _open(full).send([RECORD])
    assert caught.value.reason == "Unavailable"
