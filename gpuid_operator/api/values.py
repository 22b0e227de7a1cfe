"""Value types of the models: Go durations, Kubernetes times, and texts of a bounded size."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)
from pydantic.alias_generators import to_camel

_UNITS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_TERM: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_PLAIN: Final = re.compile(r"[ !#-%'-;=?-\[\]-~]*")
DURATION_PATTERN: Final = (
    r"^([0-9]{1,5}(\.[0-9]{1,9})?h|[0-9]{1,7}(\.[0-9]{1,9})?m"
    r"|[0-9]{1,9}(\.[0-9]{1,9})?s|[0-9]{1,12}(\.[0-9]{1,9})?ms)+$"
)
"""Durations that CEL can evaluate: more digits would overflow."""
_DURATION_RULE: Final = {
    "rule": f"self.matches(r'{DURATION_PATTERN}') && duration(self) <= duration('87600h')",
    "message": "must be a duration such as 500ms, 30s, 1m30s or 24h (0s for none), at most 87600h",
}


def parse_duration(text: str) -> timedelta:
    """Parse a Go duration such as `1m30s` or `500ms`; as in Go, `0` needs no unit.

    Raises ValueError, whose text says what is allowed, for anything else and for negative
    durations.
    """
    text = text.strip()
    if text == "0":
        return timedelta(0)
    seconds, end = 0.0, 0
    for term in _TERM.finditer(text):
        if term.start() != end:
            break
        seconds += float(term[1]) * _UNITS[term[2]]
        end = term.end()
    if not text or end != len(text):
        raise ValueError("a duration such as 30s, 1m30s, 500ms or 24h")
    try:
        return timedelta(seconds=seconds)
    except OverflowError as error:
        raise ValueError("a duration of at most 999999999 days") from error


def format_duration(value: timedelta) -> str:
    """Format a duration as `parse_duration` reads it, such as `24h`, `1m30s` or `1s500ms`."""
    milliseconds = round(value.total_seconds() * 1000)
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def format_time(value: datetime) -> str:
    """Format a time as the Kubernetes API does (RFC 3339, UTC, whole seconds)."""
    return whole_seconds(value).isoformat().removesuffix("+00:00") + "Z"


def first_fault(error: ValidationError) -> str:
    """The first error of an object in one line: field and reason."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _duration(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else value


def whole_seconds(value: datetime) -> datetime:
    """The time in UTC, truncated to seconds: metav1.Time has no fractions.

    Raises ValueError if the time in UTC is before the year 1 or after the year 9999.
    """
    try:
        value = value if value.tzinfo is UTC else value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a time between the years 1 and 9999 in UTC") from error
    # `replace` takes longer than all the rest, and an inventory has a hundred times.
    return value.replace(microsecond=0) if value.microsecond else value


def encoded_size(text: str) -> int:
    """Size of a string in bytes as the API server stores it, without quotes. Go's encoding/json
    also escapes `<`, `>` and `&`."""
    if _PLAIN.fullmatch(text):
        return len(text)
    return sum(map(_encoded, text))


def fitting(text: str, limit: int) -> str:
    """The longest prefix of a text whose encoded size is at most `limit` bytes."""
    if encoded_size(text) <= limit:
        return text
    end = 0
    while (limit := limit - _encoded(text[end])) >= 0:
        end += 1
    return text[:end]


def truncate(text: str, limit: int) -> str:
    """Limit a text to `limit` bytes as the API server stores it, and so to as many characters. A
    truncated text ends with an ellipsis."""
    return text if encoded_size(text) <= limit else fitting(text, limit - encoded_size("…")) + "…"


def _encoded(character: str) -> int:
    if character in '"\\\b\f\n\r\t':
        return 2
    if character < " " or character in "<>&\u2028\u2029":
        return 6
    return len(character.encode(errors="replace"))


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    Field(
        json_schema_extra={
            "type": "string",
            "maxLength": 32,
            "x-kubernetes-validations": [_DURATION_RULE],
        }
    ),
]
"""A duration; in JSON, a Go duration string."""

Time = Annotated[
    datetime,
    AfterValidator(whole_seconds),
    PlainSerializer(format_time, return_type=str),
    Field(json_schema_extra={"type": "string", "format": "date-time"}),
]
"""A time in whole seconds, as in metav1.Time; in JSON, RFC 3339 in UTC."""


Text = Annotated[str, Field(max_length=128)]
LongText = Annotated[str, Field(max_length=512)]
QuarantineName = Annotated[str, Field(min_length=1, max_length=63)]
"""Name of a GPUQuarantine: short enough for the value of a taint."""


class Model(BaseModel):
    """Base of all API models: immutable, camelCase in JSON, unknown fields ignored."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        alias_generator=to_camel,
        use_attribute_docstrings=True,
    )

    def to_json(self) -> dict[str, Any]:
        """The object as JSON values; fields without a value are omitted."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
