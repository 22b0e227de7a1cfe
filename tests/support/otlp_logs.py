"""The records in OTLP logs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gpuid_operator.api.record import Record
from gpuid_operator.api.values import format_time


def records_of(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The records that an ExportLogsServiceRequest was made of."""
    return [
        _record(_attributes(one["resource"]), log_record)
        for one in request["resourceLogs"]
        for scope in one["scopeLogs"]
        for log_record in scope["logRecords"]
    ]


def _record(resource: dict[str, Any], log_record: dict[str, Any]) -> dict[str, Any]:
    assert log_record["observedTimeUnixNano"] == log_record["timeUnixNano"]
    seconds = int(log_record["timeUnixNano"]) / 10**9
    fields = {name.removeprefix("gpuid."): value for name, value in _attributes(log_record).items()}
    absent = dict.fromkeys(field.alias or name for name, field in Record.model_fields.items())
    return {
        **absent,
        **fields,
        "cluster": resource["k8s.cluster.name"],
        "node": resource["k8s.node.name"],
        "time": format_time(datetime.fromtimestamp(seconds, UTC)),
    }


def _attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {
        one["key"]: int(value) if kind == "intValue" else value
        for one in holder["attributes"]
        for kind, value in one["value"].items()
    }
