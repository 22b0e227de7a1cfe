"""The http sink's format `otlp`: OTLP/HTTP logs in JSON, and what a 2xx response says about them.

Names and numbers are those of opentelemetry-proto (`ExportLogsServiceRequest`) in OTLP's JSON
mapping: lowerCamelCase, 64-bit integers as strings, enums as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from gpuid_operator.api.history import HistoryEntry, HistoryType
from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.record import Record
from gpuid_operator.plan.announcements import WARNINGS, event_message
from gpuid_operator.plan.records import NO_GPU
from gpuid_operator.sinks.cloudevents import EVENT_TYPE

_INFO: Final = {"severityNumber": 9, "severityText": "INFO"}
_WARN: Final = {"severityNumber": 13, "severityText": "WARN"}
_NANOSECONDS: Final = 10**9
_MAX_UINT64: Final = 2**64 - 1
_ELSEWHERE: Final = frozenset({"cluster", "node", "time"})
"""Fields of a record that OTLP has a place for; the others are attributes."""


def export_request(records: Sequence[Record]) -> dict[str, Any]:
    """An ExportLogsServiceRequest: one `resourceLogs` per node, with its records in order."""
    by_node: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        by_node.setdefault((record.cluster, record.node), []).append(record)
    return {
        "resourceLogs": [
            {
                "resource": {
                    "attributes": _attributes(
                        {
                            "service.name": MANAGER,
                            "k8s.cluster.name": cluster,
                            "k8s.node.name": node,
                        }
                    )
                },
                "scopeLogs": [
                    {
                        "scope": {"name": MANAGER},
                        "logRecords": [_log_record(record) for record in of_node],
                    }
                ],
            }
            for (cluster, node), of_node in by_node.items()
        ]
    }


def rejection(text: str) -> str | None:
    """Why an ExportLogsServiceResponse says that records did not arrive; None if all arrived.

    A response that is something else says nothing: its status is what counts.
    """
    try:
        partial = orjson.loads(text)["partialSuccess"]
        rejected, why = partial["rejectedLogRecords"], partial.get("errorMessage")
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    # A 64-bit integer is a string in the JSON of protobuf; parsers also take a number.
    number = str(rejected)
    if not (number.isascii() and number.isdigit()) or not int(number):
        return None
    return f"rejected {number} log records" + (f": {why}" if why else "")


def _log_record(record: Record) -> dict[str, Any]:
    nanoseconds = int(record.time.timestamp()) * _NANOSECONDS
    # 0 is OTLP's unknown time.
    time = str(nanoseconds if 0 < nanoseconds <= _MAX_UINT64 else 0)
    return {
        "timeUnixNano": time,
        # The time of an entry is when the operator observed the change.
        "observedTimeUnixNano": time,
        **(_WARN if record.event in WARNINGS else _INFO),
        "eventName": f"{EVENT_TYPE}.{record.event}",
        "body": {"stringValue": _body(record)},
        "attributes": _attributes(
            {
                f"gpuid.{name}": value
                for name, value in record.to_json().items()
                if name not in _ELSEWHERE
            }
        ),
    }


def _body(record: Record) -> str:
    """The words of the change's Kubernetes Event."""
    entry = HistoryEntry(
        sequence=record.sequence,
        time=record.time,
        type=HistoryType(record.event),
        uuid=record.uuid,
        serial=None if record.gpu == NO_GPU else record.gpu,
        pci_address=record.pci,
        machine=record.machine,
        product=record.product,
        from_=record.from_,
        to=record.to,
    )
    return f"{record.event} on {record.node}: {event_message([entry])}"


def _attributes(values: Mapping[str, str | int | None]) -> list[dict[str, Any]]:
    """Attributes in the order of the values; OTLP has none without a value."""
    return [
        {"key": key, "value": _any_value(value)}
        for key, value in values.items()
        if value is not None
    ]


def _any_value(value: str | int) -> dict[str, str]:
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}
