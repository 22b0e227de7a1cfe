"""GPUQuarantine: parts that must not be used, wherever they turn up; written by users."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, ValidationError

from gpuid_operator.api.conditions import Condition
from gpuid_operator.api.meta import MAX_QUARANTINE_MATCHES, MAX_QUARANTINE_PARTS
from gpuid_operator.api.values import (
    Model,
    QuarantineName,
    Text,
    Time,
    first_fault,
    whole_seconds,
)

MAX_REASON: Final = 256
UNKNOWN_SERIALS: Final = ("na", "n/a", "[n/a]", "none", "unknown", "unknown error")
"""What stands for an unknown serial, in lower case: no part can be found by it."""

_UUID_PATTERN: Final = r"^GPU-[0-9A-Za-z-]+$"
PATTERNS: Final = {
    _UUID_PATTERN: "must be the UUID of a GPU as nvidia-smi prints it:"
    " GPU- followed by hexadecimal digits and hyphens"
}
"""What the CRD says to a user whose value does not match a pattern."""


_UNTIL_RULE: Final = {
    # The format `date-time` alone accepts the year 0, and offsets that Go itself cannot parse.
    "rule": "self.getFullYear('UTC') >= 1970 && self.getFullYear('UTC') <= 9999",
    "message": "must be a time from the year 1970 to the year 9999 in UTC, such as"
    " 2027-01-31T00:00:00Z; leave it out for a quarantine that does not end",
}


def _in_utc(value: datetime) -> datetime:
    """The time in UTC; one without a time zone is in UTC already."""
    return whole_seconds(value if value.tzinfo else value.replace(tzinfo=UTC))


Until = Annotated[
    datetime,
    AfterValidator(_in_utc),
    Field(json_schema_extra={"x-kubernetes-validations": [_UNTIL_RULE]}),
]
"""A time in whole seconds, in UTC whatever time zone the user wrote."""


class Part(Model):
    """A GPU, a board or a chassis: exactly one of the fields."""

    uuid: Annotated[str, Field(max_length=128, pattern=_UUID_PATTERN)] | None = None
    """UUID of a GPU, `GPU-…`, as nvidia-smi prints it."""
    serial: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Serial number of a board, which all of its GPUs share."""
    chassis: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Serial number of a chassis, for an NVL72 that of the rack."""


class QuarantineAction(StrEnum):
    """What happens to a node that has one of the parts."""

    REPORT = "Report"
    TAINT = "Taint"


class QuarantineSpec(Model):
    """The parts, and why they are in quarantine."""

    parts: Annotated[list[Part], Field(min_length=1, max_length=MAX_QUARANTINE_PARTS)]
    """Parts in quarantine; a GPU that one of them identifies is in quarantine."""
    reason: Annotated[str, Field(min_length=1, max_length=MAX_REASON)]
    """Why the parts are in quarantine, such as `Xid 79 three times`."""
    ticket: Annotated[str, Field(max_length=512)] | None = None
    """Where the case is tracked, such as the URL of a ticket."""
    until: Until | None = None
    """Time in RFC 3339 at which the quarantine ends (default: it does not end)."""
    action: QuarantineAction | None = None
    """`Report` (default), or `Taint` to keep new pods off a node that has one of the parts, if the
    operator allows taints."""


class QuarantineMatch(Model):
    """A present GPU in quarantine."""

    node: Annotated[str, Field(max_length=253)]
    """Node that has the GPU."""
    uuid: Text | None = None
    """UUID of the GPU."""
    serial: Text | None = None
    """Serial number of the GPU."""
    since: Time
    """Time when the operator found the GPU in quarantine on this node."""


class QuarantineStatus(Model):
    """Observed state of the quarantine in this cluster."""

    observed_generation: int | None = None
    """`metadata.generation` that this status is based on."""
    match_count: int | None = None
    """Number of GPUs in this cluster that the quarantine matches now."""
    matches: Annotated[list[QuarantineMatch], Field(max_length=MAX_QUARANTINE_MATCHES)] | None = (
        None
    )
    """The first of these GPUs, by node."""
    conditions: Annotated[list[Condition], Field(max_length=8)] | None = None
    """Conditions of the quarantine: `Ready` (it is in force) and `Present` (one of its parts is in
    this cluster now)."""


class _Understood(Model):
    """What this version has to understand of an object, so that the quarantine is in force."""

    name: QuarantineName
    spec: QuarantineSpec


_NO_SPEC: Final = QuarantineSpec.model_construct(parts=[], reason="")


class Quarantine(Model):
    """A GPUQuarantine object."""

    name: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    spec: QuarantineSpec = _NO_SPEC
    status: QuarantineStatus = QuarantineStatus()
    fault: str = ""
    """Why the name or the spec cannot be parsed, if so. `spec` then lists no part."""

    @classmethod
    def from_object(cls, body: dict[str, Any]) -> Quarantine:
        """Read an API object whose spec may be invalid. An invalid status is read as an empty one:
        the operator writes the whole status again."""
        meta = body.get("metadata", {})
        spec, fault = _NO_SPEC, ""
        status = QuarantineStatus()
        try:
            given = {"name": meta["name"], "spec": body.get("spec") or {}}
            spec = _Understood.model_validate(given).spec
        except ValidationError as error:
            fault = first_fault(error)
        with suppress(ValidationError):
            status = QuarantineStatus.model_validate(body.get("status") or {})
        return cls(
            name=meta["name"],
            uid=meta.get("uid", ""),
            generation=meta.get("generation", 0),
            resource_version=meta.get("resourceVersion", ""),
            spec=spec,
            status=status,
            fault=fault,
        )


_UNKNOWN: Final = ", ".join(f"'{word}'" for word in UNKNOWN_SERIALS)


def _known(field: str) -> dict[str, str]:
    return {
        "rule": f"!has(self.{field}) || !(self.{field}.trim().lowerAscii() in ['', {_UNKNOWN}]"
        f" || self.{field}.matches('^0+$'))",
        "message": f"{field} must be a number as nvidia-smi prints it, not a word for an unknown"
        " one; write the uuid of the GPU instead",
    }


OBJECT_RULES: Final = [
    {
        "rule": "size(self.metadata.name) <= 63",
        "message": "the name must have at most 63 characters: it is the value of a taint",
    }
]
RULES: Final[dict[type[Model], list[dict[str, str]]]] = {
    Part: [
        {
            "rule": "[has(self.uuid), has(self.serial), has(self.chassis)].filter(x, x).size()"
            " == 1",
            "message": "a part must have exactly one of uuid, serial, chassis; write another item"
            " for another part",
        },
        _known("serial"),
        _known("chassis"),
    ],
}
