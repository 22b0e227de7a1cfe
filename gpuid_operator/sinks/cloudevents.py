"""Records as CloudEvents 1.0."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.record import Record

EVENT_TYPE: Final = "com.github.gpuid"
"""Prefix of the name that a type of changes has outside this project."""


def cloud_event(record: Record) -> dict[str, Any]:
    """An event; `source` and `id` together are unique, as the specification requires."""
    data = record.to_json()
    return {
        "specversion": "1.0",
        "id": record.id,
        "source": f"/{MANAGER}/{quote(record.cluster, safe='')}",
        "type": f"{EVENT_TYPE}.{record.event}",
        "subject": record.node,
        "time": data["time"],
        "datacontenttype": "application/json",
        "data": data,
    }
