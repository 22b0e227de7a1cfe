"""The formats of the http sink: how each writes a batch, and what a response means in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import HTTPFormat
from gpuid_operator.sinks.http_otlp import export_request, rejection

_EVENT_TYPE: Final = "com.github.gpuid"
_TEMPORARY: Final = frozenset({408, 409, 421, 425, 429, *range(500, 1000)})


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format of the http sink."""

    content_type: str
    encode: Callable[[Sequence[Record]], Any]
    """The JSON values of a batch."""
    temporary: frozenset[int] = _TEMPORARY
    """Statuses after which the same request may succeed."""
    rejection: Callable[[str], str | None] | None = None
    """Why the body of a 2xx response says that records did not arrive; None where no body says
    so."""


def _event(record: Record) -> dict[str, Any]:
    """A CloudEvent 1.0; `source` and `id` together are unique, as the specification requires."""
    data = record.to_json()
    return {
        "specversion": "1.0",
        "id": record.id,
        "source": f"/{MANAGER}/{quote(record.cluster, safe='')}",
        "type": f"{_EVENT_TYPE}.{record.event}",
        "subject": record.node,
        "time": data["time"],
        "datacontenttype": "application/json",
        "data": data,
    }


FORMATS: Final = {
    HTTPFormat.JSON: Format(
        content_type="application/json",
        encode=lambda records: [record.to_json() for record in records],
    ),
    HTTPFormat.CLOUDEVENTS: Format(
        content_type="application/cloudevents-batch+json",
        encode=lambda records: [_event(record) for record in records],
    ),
    HTTPFormat.OTLP: Format(
        content_type="application/json",
        encode=lambda records: export_request(records, event_type=_EVENT_TYPE),
        temporary=frozenset({429, 502, 503, 504}),
        rejection=rejection,
    ),
}
