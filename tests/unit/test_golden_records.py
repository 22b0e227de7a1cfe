"""The bytes that each sink sends for one history entry, written out by hand.

Consumers of records read these bytes: to change one of them is to change the contract.
The digests are `printf '<ids, one a line>' | sha256sum`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from gpuid_operator.api.sinks import HTTPFormat, HTTPSink, ObjectFormat, S3Sink
from gpuid_operator.sinks.http import HTTPSender
from gpuid_operator.sinks.http_client import Answer, HTTPClient
from gpuid_operator.sinks.objects import StoredObject, objects_of
from gpuid_operator.sinks.stdout import StdoutSender
from gpuid_operator.telemetry.log import write_records
from tests.support.golden import CSV, CSV_KEY, JSONL_KEY, MOVED, RECORD, SIGHTED, records
from tests.support.secret_source import Secrets

LINE = (
    b'{"time":"2026-06-07T10:30:45Z","level":"INFO",'
    b'"source":"gpu-operator/nvidia-device-plugin-abc","msg":"gpu serial number reading",'
    b'"service":"gpuid","id":"8f14e45f-ceea-467f-a0e6-5d1f8b2f6c11.7.1780828245",'
    b'"event":"GPUMoved","cluster":"prod/eu","node":"gpu-node-01",'
    b'"machine":"i-1234567890abcdef0","chassis":"1821325191344","gpu":"1761025346025",'
    b'"uuid":"GPU-25e04bdf-1c2d-4e3f-8a9b-0c1d2e3f4a5b","pci":"00000000:2A:00.0",'
    b'"product":"NVIDIA GB200","driver":"570.148.08","sequence":7,'
    b'"from":"00000000:29:00.0","to":"00000000:2A:00.0"}\n'
)

EVENT = (
    b'{"specversion":"1.0","id":"8f14e45f-ceea-467f-a0e6-5d1f8b2f6c11.7.1780828245",'
    b'"source":"/gpuid-operator/prod%2Feu","type":"com.github.gpuid.GPUMoved",'
    b'"subject":"gpu-node-01","time":"2026-06-07T10:30:45Z",'
    b'"datacontenttype":"application/json","data":' + RECORD + b"}"
)

LOGS = (
    b'{"resourceLogs":[{"resource":{"attributes":['
    b'{"key":"service.name","value":{"stringValue":"gpuid-operator"}},'
    b'{"key":"k8s.cluster.name","value":{"stringValue":"prod/eu"}},'
    b'{"key":"k8s.node.name","value":{"stringValue":"gpu-node-01"}}]},'
    b'"scopeLogs":[{"scope":{"name":"gpuid-operator"},"logRecords":[{'
    b'"timeUnixNano":"1780828245000000000","observedTimeUnixNano":"1780828245000000000",'
    b'"severityNumber":9,"severityText":"INFO","eventName":"com.github.gpuid.GPUMoved",'
    b'"body":{"stringValue":"GPUMoved on gpu-node-01: NVIDIA GB200 serial 1761025346025'
    b" GPU-25e04bdf-1c2d-4e3f-8a9b-0c1d2e3f4a5b at 00000000:2A:00.0:"
    b' from 00000000:29:00.0 to 00000000:2A:00.0"},"attributes":['
    b'{"key":"gpuid.id","value":'
    b'{"stringValue":"8f14e45f-ceea-467f-a0e6-5d1f8b2f6c11.7.1780828245"}},'
    b'{"key":"gpuid.event","value":{"stringValue":"GPUMoved"}},'
    b'{"key":"gpuid.machine","value":{"stringValue":"i-1234567890abcdef0"}},'
    b'{"key":"gpuid.source","value":{"stringValue":"gpu-operator/nvidia-device-plugin-abc"}},'
    b'{"key":"gpuid.chassis","value":{"stringValue":"1821325191344"}},'
    b'{"key":"gpuid.gpu","value":{"stringValue":"1761025346025"}},'
    b'{"key":"gpuid.uuid","value":{"stringValue":"GPU-25e04bdf-1c2d-4e3f-8a9b-0c1d2e3f4a5b"}},'
    b'{"key":"gpuid.pci","value":{"stringValue":"00000000:2A:00.0"}},'
    b'{"key":"gpuid.product","value":{"stringValue":"NVIDIA GB200"}},'
    b'{"key":"gpuid.driver","value":{"stringValue":"570.148.08"}},'
    b'{"key":"gpuid.sequence","value":{"intValue":"7"}},'
    b'{"key":"gpuid.from","value":{"stringValue":"00000000:29:00.0"}},'
    b'{"key":"gpuid.to","value":{"stringValue":"00000000:2A:00.0"}}]}]}]}]}'
)

IDEMPOTENCY_KEY = "0142e667737cc4dccf815ca60df827cb09823ea542b07ed7913c1689de8db09e"


class Captured(HTTPClient):
    """Takes what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.body = b""
        self.headers: Mapping[str, str] = {}

    async def post(self, url: str, *, body: bytes, headers: Mapping[str, str], **_: Any) -> Answer:
        self.body, self.headers = body, headers
        return Answer(status=204, phrase="", retry_after=None, text="", truncated=False)


async def test_a_line_on_stdout(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    await StdoutSender(write_records).send(records(MOVED))
    assert capfdbinary.readouterr().out == LINE


@pytest.mark.parametrize(
    ("form", "content_type", "body"),
    [
        (HTTPFormat.JSON, "application/json", b"[" + RECORD + b"]"),
        (HTTPFormat.CLOUDEVENTS, "application/cloudevents-batch+json", b"[" + EVENT + b"]"),
        (HTTPFormat.OTLP, "application/json", LOGS),
    ],
)
async def test_a_request(form: HTTPFormat, content_type: str, body: bytes) -> None:
    client = Captured()
    spec = HTTPSink(url="https://cmdb.example.com/in", format=form)
    now = datetime(2026, 6, 7, 12, 31, 0, 900_000, tzinfo=timezone(timedelta(hours=2)))
    sender = HTTPSender(spec, secrets=Secrets(), client=client, now=lambda: now)
    await sender.send(records(MOVED))
    assert client.body == body
    assert client.headers == {
        "Content-Type": content_type,
        "Idempotency-Key": IDEMPOTENCY_KEY,
        "User-Agent": "gpuid-operator",
        "X-Records-Count": "1",
        "X-Timestamp": "2026-06-07T10:31:00Z",
    }


def test_a_csv_object() -> None:
    (found,) = objects_of(records(SIGHTED, sightings=True), S3Sink(bucket="b", prefix="gpus"))
    assert found == StoredObject(
        key=f"gpus/{CSV_KEY}",
        content=CSV,
        content_type="text/csv",
        records=2,
    )


def test_an_object_of_json_lines() -> None:
    (found,) = objects_of(records(MOVED), S3Sink(bucket="b", format=ObjectFormat.JSONL))
    assert found == StoredObject(
        key=JSONL_KEY,
        content=RECORD + b"\n",
        content_type="application/x-ndjson",
        records=1,
    )
