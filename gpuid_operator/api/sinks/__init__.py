"""The settings of sinks in a policy or an inventory: where and how to deliver changes.

Each type has a module with its model, and a field of `Sink`. The field's name is that of the type.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final, get_args

from pydantic import Field

from gpuid_operator.api.sinks.azure import AzureSink
from gpuid_operator.api.sinks.gcs import GCSSink
from gpuid_operator.api.sinks.http import HTTPFormat, HTTPSink
from gpuid_operator.api.sinks.kafka import (
    KafkaFormat,
    KafkaSASL,
    KafkaSink,
    KafkaTLS,
    SASLMechanism,
)
from gpuid_operator.api.sinks.objects import ObjectFormat, ObjectSink
from gpuid_operator.api.sinks.postgres import PostgresSink, SSLMode
from gpuid_operator.api.sinks.s3 import S3Sink
from gpuid_operator.api.sinks.settings import (
    COMMON_PATTERNS,
    NAME_PATTERN,
    Name,
    SecretKeyRef,
    SecretRef,
    SinkSettings,
)
from gpuid_operator.api.sinks.stdout import StdoutSink
from gpuid_operator.api.values import Duration, Model

__all__ = [
    "NAME_PATTERN",
    "PATTERNS",
    "RULES",
    "TYPES",
    "TYPE_NAMES",
    "AzureSink",
    "Batch",
    "GCSSink",
    "HTTPFormat",
    "HTTPSink",
    "KafkaFormat",
    "KafkaSASL",
    "KafkaSink",
    "KafkaTLS",
    "Name",
    "ObjectFormat",
    "ObjectSink",
    "PostgresSink",
    "Records",
    "S3Sink",
    "SASLMechanism",
    "SSLMode",
    "SecretKeyRef",
    "SecretRef",
    "Sink",
    "SinkSettings",
    "StdoutSink",
]


class Records(StrEnum):
    """Which records a sink receives."""

    CHANGES = "changes"
    SIGHTINGS = "sightings"


class Batch(Model):
    """How to batch records."""

    max_records: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Maximum number of records in a batch (default 500)."""
    max_wait: Duration | None = None
    """Maximum time that a record waits for others in its batch (default 1s)."""


class Sink(Model):
    """A named destination of records. Set exactly one type."""

    name: Name
    """Name of the sink. In an inventory, it replaces the sink of the policy with the same name."""
    records: Records | None = None
    """Records to deliver: `changes`, one record per history entry (default), or `sightings`, as
    gpuid does: one record per pair of chassis and serial. CSV objects always hold sightings."""
    batch: Batch | None = None
    """How to batch records."""
    stdout: StdoutSink | None = None
    """Writes JSON lines to the log of the operator."""
    http: HTTPSink | None = None
    """Sends records to a web service by POST."""
    postgres: PostgresSink | None = None
    """Inserts records into a PostgreSQL table."""
    s3: S3Sink | None = None
    """Puts objects into an S3-compatible bucket."""
    gcs: GCSSink | None = None
    """Puts objects into a bucket of Google Cloud Storage."""
    azure: AzureSink | None = None
    """Puts blobs into a container of Azure Blob Storage."""
    kafka: KafkaSink | None = None
    """Produces messages to a Kafka topic."""

    @property
    def is_known(self) -> bool:
        """Whether this version of the operator knows the type that is set. A later version may have
        more types."""
        return any(getattr(self, kind) is not None for kind in _MODELS)

    @property
    def type(self) -> str:
        """The type that is set; the first one if a server without CEL accepted several."""
        for kind in _MODELS:
            if getattr(self, kind) is not None:
                return kind
        raise ValueError(f"sink {self.name}: {_EXACTLY_ONE}")

    @property
    def settings(self) -> SinkSettings:
        """The settings of the type that is set."""
        settings: SinkSettings = getattr(self, self.type)
        return settings

    @property
    def sightings(self) -> bool:
        """Whether the sink receives only `Sighted` records."""
        if self.is_known and self.settings.only_sightings:
            return True
        return self.records is Records.SIGHTINGS

    @property
    def max_records(self) -> int:
        return (self.batch and self.batch.max_records) or 500

    @property
    def max_wait(self) -> timedelta:
        wait = self.batch.max_wait if self.batch else None
        return timedelta(seconds=1) if wait is None else wait


_MODELS: Final[dict[str, type[SinkSettings]]] = {
    name: model
    for name, field in Sink.model_fields.items()
    for model in get_args(field.annotation)
    if isinstance(model, type) and issubclass(model, SinkSettings)
}

TYPES: Final = tuple(_MODELS)
TYPE_NAMES: Final = ", ".join(TYPES[:-1]) + f" or {TYPES[-1]}"
"""The types of sinks, for messages."""
_EXACTLY_ONE: Final = f"set exactly one of {TYPE_NAMES}"

RULES: Final[dict[type[Model], list[dict[str, str]]]] = {
    Sink: [
        {
            "rule": f"[{', '.join(f'has(self.{kind})' for kind in _MODELS)}]"
            ".filter(x, x).size() == 1",
            "message": f"{_EXACTLY_ONE} (stdout as `stdout: {{}}`)",
        }
    ],
    **{model: list(model.RULES) for model in _MODELS.values() if model.RULES},
}
"""CEL rules by model; the CRD generator adds them to the schema."""

PATTERNS: Final = COMMON_PATTERNS | {
    pattern: message for model in _MODELS.values() for pattern, message in model.PATTERNS.items()
}
"""What the CRD says to a user whose value does not match a pattern."""
