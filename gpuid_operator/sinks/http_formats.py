"""The formats of the http sink: how each writes a batch, and what a response means in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import HTTPFormat
from gpuid_operator.sinks.cloudevents import cloud_event
from gpuid_operator.sinks.http_otlp import export_request, rejection

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


FORMATS: Final = {
    HTTPFormat.JSON: Format(
        content_type="application/json",
        encode=lambda records: [record.to_json() for record in records],
    ),
    HTTPFormat.CLOUDEVENTS: Format(
        content_type="application/cloudevents-batch+json",
        encode=lambda records: [cloud_event(record) for record in records],
    ),
    HTTPFormat.OTLP: Format(
        content_type="application/json",
        encode=export_request,
        temporary=frozenset({429, 502, 503, 504}),
        rejection=rejection,
    ),
}
