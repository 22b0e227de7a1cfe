"""The http sink's format `otlp`: what it sends, by the protocol's definition, and what it makes of
responses."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from aiohttp import web
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber
from standardwebhooks.webhooks import Webhook

from gpuid_operator.api.history import HistoryType
from gpuid_operator.api.record import Record
from gpuid_operator.sinks.base import RecordsRefused, Refused, SinkError, Unavailable
from gpuid_operator.sinks.http_otlp import export_request
from tests.support.golden import MOVED, SIGHTED, records
from tests.support.http_sink import (
    TOKEN,
    TOKEN_REF,
    Handler,
    failure_of,
    http_sink,
    sent_records,
    serving,
)
from tests.support.otlp_logs import records_of
from tests.support.secret_source import Secrets


def parsed(batch: list[Record]) -> ExportLogsServiceRequest:
    """The request, read by the protocol's definition; an unknown field is an error."""
    body = orjson.dumps(export_request(batch))
    request = ExportLogsServiceRequest()
    json_format.Parse(body, request)
    return request


def log_record(record: Record) -> LogRecord:
    found: LogRecord = parsed([record]).resource_logs[0].scope_logs[0].log_records[0]
    return found


def attributes(holder: Any) -> dict[str, str | int]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in holder.attributes}


def response(rejected: object, message: str = "") -> str:
    partial = {"rejectedLogRecords": rejected} | ({"errorMessage": message} if message else {})
    return orjson.dumps({"partialSuccess": partial}).decode()


def test_each_node_is_a_resource_with_its_records_in_order() -> None:
    one, two, three = sent_records(3)
    request = parsed([one, two.model_copy(update={"node": "gpu-2"}), three])
    assert [attributes(found.resource) for found in request.resource_logs] == [
        {
            "service.name": "gpuid-operator",
            "k8s.cluster.name": "prod/eu",
            "k8s.node.name": node,
        }
        for node in ("gpu-1", "gpu-2")
    ]
    assert [
        [attributes(record)["gpuid.sequence"] for record in found.scope_logs[0].log_records]
        for found in request.resource_logs
    ] == [[1, 3], [2]]


def test_a_record_can_be_put_together_again() -> None:
    for batch in (records(MOVED), records(SIGHTED, sightings=True), sent_records(3)):
        assert records_of(export_request(batch)) == [record.to_json() for record in batch]


@pytest.mark.parametrize("kind", HistoryType)
def test_what_is_a_warning_event_is_a_warning(kind: HistoryType) -> None:
    found = log_record(records(MOVED)[0].model_copy(update={"event": kind.value}))
    warning = kind in {
        *(HistoryType.GPU_REMOVED, HistoryType.GPU_LOST, HistoryType.CHECK_FAILED),
        *(HistoryType.EXPECTATION_FAILED, HistoryType.GPU_QUARANTINED, HistoryType.DROPPED),
    }
    assert found.severity_text == ("WARN" if warning else "INFO")
    assert found.severity_number == (
        SeverityNumber.SEVERITY_NUMBER_WARN if warning else SeverityNumber.SEVERITY_NUMBER_INFO
    )
    assert found.event_name == f"com.github.gpuid.{kind}"
    assert found.body.string_value.startswith(f"{kind} on gpu-node-01: NVIDIA GB200 serial 1761")


def test_a_record_about_the_node_has_no_attribute_without_a_value() -> None:
    record = sent_records(1)[0].model_copy(update={"event": "NodeDeparted", "gpu": "na"})
    found = log_record(record)
    assert found.body.string_value == "NodeDeparted on gpu-1: machine i-1"
    assert set(attributes(found)) == {
        f"gpuid.{name}"
        for name in ("id", "event", "machine", "source", "chassis", "gpu", "sequence")
    }


@pytest.mark.parametrize("year", [1, 1969, 2555, 9999])
def test_a_time_that_the_protocol_cannot_hold_is_unknown(year: int) -> None:
    """A user may have edited the status; the receiver would reject the whole request."""
    record = sent_records(1)[0].model_copy(update={"time": datetime(year, 6, 7, tzinfo=UTC)})
    assert log_record(record).time_unix_nano == 0


@pytest.mark.parametrize(
    "body",
    [
        *("", "{}", '{"partialSuccess":{}}', '{"partialSuccess":null}'),
        *(response(0), response("0"), response(0, "a warning"), response("")),
        *("OK", "[]", "null", '"partialSuccess"', "<html></html>", "{", '{"partialSuccess":[1]}'),
        *(response(rejected) for rejected in (None, True, -1, "-1", 0.5, "³", "many", [1])),
        "[" * 3000,
    ],
)
async def test_a_response_that_rejects_nothing_is_success(body: str) -> None:
    async with (
        serving(web.Response(text=body)) as server,
        http_sink(server.url, format="otlp") as sink,
    ):
        await sink.send(sent_records())
    assert len(server.requests) == 1


@pytest.mark.parametrize("rejected", [1, "1", 2, "9223372036854775807"])
async def test_rejected_records_did_not_arrive(rejected: object) -> None:
    definition = json_format.Parse(response(rejected), ExportLogsServiceResponse())
    assert definition.partial_success.rejected_log_records == int(str(rejected))
    failure = await failure_of(web.Response(text=response(rejected, "no\nroom")), format="otlp")
    assert type(failure) is RecordsRefused
    assert failure.message.endswith(f": 200 OK: rejected {rejected} log records: no room")


async def test_a_rejection_contains_no_secret() -> None:
    secrets = Secrets(token=TOKEN)
    answer = web.Response(text=response(1, f"not for Bearer {TOKEN}"))
    async with (
        serving(answer) as server,
        http_sink(server.url, secrets, format="otlp", **TOKEN_REF) as sink,
    ):
        with pytest.raises(RecordsRefused) as caught:
            await sink.send(sent_records())
    assert caught.value.message.endswith("not for Bearer [secret]")


async def test_a_request_is_signed_like_those_of_other_formats() -> None:
    reference = {"signingSecretRef": {"name": "telemetry", "key": "signing"}}
    async with (
        serving() as server,
        http_sink(server.url, Secrets(signing="key"), format="otlp", **reference) as sink,
    ):
        await sink.send(sent_records())
    headers, body = server.requests[0]
    assert Webhook(b"key").verify(body, headers) == export_request(sent_records())


async def test_a_response_too_long_to_be_read_is_no_success() -> None:
    failure = await failure_of(web.Response(text=response(1, "x" * 4096)), format="otlp")
    assert type(failure) is RecordsRefused
    assert "the response is longer than 4096 bytes: {" in failure.message


async def test_a_response_that_does_not_end_is_no_success() -> None:
    def beginning(ends: bool) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b'{"partialSuccess":')
            if ends:
                assert request.transport is not None
                request.transport.abort()
            await asyncio.Event().wait()
            return response

        return answer

    for ends in (True, False):
        failure = await failure_of(beginning(ends), format="otlp", timeout="200ms")
        assert type(failure) is Unavailable


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, Unavailable) for status in (429, 502, 503, 504)),
        *((status, RecordsRefused) for status in (400, 413, 422)),
        *((status, Refused) for status in (307, 401, 403, 404, 405, 408, 409, 415, 500, 501)),
    ],
)
async def test_only_what_the_protocol_calls_retryable_is_temporary(
    status: int, error: type[SinkError]
) -> None:
    answer = web.Response(status=status, headers={"Retry-After": "17"})
    failure = await failure_of(answer, format="otlp")
    assert type(failure) is error
    assert failure.retry_after == 17
