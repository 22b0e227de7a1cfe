"""Sinks as they stand in a policy or an inventory: where changes are delivered, and how."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from gpuid_operator.api.values import Duration, Model

NAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_HTTPS_RULE: Final = {
    "rule": "!self.url.startsWith('http://') || (has(self.insecure) && self.insecure)",
    "message": "url must begin with https:// (or set insecure: true to send in clear text)",
}
_ENDPOINT_RULE: Final = {
    "rule": "!has(self.endpoint) || !self.endpoint.startsWith('http://')"
    " || (has(self.insecure) && self.insecure)",
    "message": "endpoint must begin with https:// (or set insecure: true to send in clear text)",
}
_ONE_OF_RULE: Final = {
    "rule": "[has(self.stdout), has(self.http), has(self.postgres), has(self.s3)]"
    ".filter(x, x).size() == 1",
    "message": "give exactly one of stdout, http, postgres or s3 (the first as `stdout: {}`)",
}

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=NAME_PATTERN)]
_Text = Annotated[str, Field(min_length=1, max_length=253)]


class Records(StrEnum):
    """Which records a sink gets."""

    CHANGES = "changes"
    SIGHTINGS = "sightings"


class HTTPFormat(StrEnum):
    JSON = "json"
    CLOUDEVENTS = "cloudevents"


class S3Format(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


class SSLMode(StrEnum):
    """libpq's sslmode values."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class SecretKeyRef(Model):
    """One key of a Secret in the operator's own namespace.

    The Secret must carry the label `gpuid.github.com/sink: "true"`.
    """

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
    """Key in the Secret's data."""


class SecretRef(Model):
    """A whole Secret in the operator's own namespace, labelled `gpuid.github.com/sink: "true"`."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret."""


class Batch(Model):
    """How records are gathered before they are sent."""

    max_records: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Most records in one batch (default 500)."""
    max_wait: Duration | None = None
    """Longest time that a record waits for others to join its batch (default 1s)."""


class StdoutSink(Model):
    """One JSON line per record in the operator's log; without settings: write `stdout: {}`."""


class HTTPSink(Model):
    """POST of a JSON array, or of a CloudEvents batch."""

    url: Annotated[
        str, Field(min_length=8, max_length=2048, pattern=r"^https?://[^\s/@?#]+([/?][^\s]*)?$")
    ]
    """Where to POST; https unless `insecure` is true; credentials belong in a Secret, not here."""
    token_secret_ref: SecretKeyRef | None = None
    """Bearer token."""
    ca_secret_ref: SecretKeyRef | None = None
    """PEM bundle of certificate authorities to trust instead of the system's."""
    signing_secret_ref: SecretKeyRef | None = None
    """Key of the Standard Webhooks signature (as it is, or base64 behind `whsec_`)."""
    headers: (
        Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=16)] | None
    ) = None
    """Further request headers; not for secrets."""
    format: HTTPFormat | None = None
    """Body: `json`, an array of records (default), or `cloudevents`, a batch of CloudEvents 1.0."""
    timeout: Duration | None = None
    """Time-out of one request (default 30s)."""
    insecure: bool | None = None
    """Allow http:// (default false)."""


class PostgresSink(Model):
    """Rows of a PostgreSQL table that has gpuid's columns and more."""

    host: _Text
    """Host name or address of the server."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port (default 5432)."""
    database: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the database."""
    ssl_mode: SSLMode | None = None
    """libpq's sslmode (default require)."""
    ca_secret_ref: SecretKeyRef | None = None
    """PEM bundle of certificate authorities for verify-ca and verify-full."""
    user_secret_ref: SecretKeyRef | None = None
    """User name."""
    password_secret_ref: SecretKeyRef | None = None
    """Password."""
    table: (
        Annotated[str, Field(min_length=1, max_length=127, pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")]
        | None
    ) = None
    """Table, with its schema if need be: `serials` (default) or `fleet.serials`."""
    auto_migrate: bool | None = None
    """Create or extend the table and its views (default false: say which SQL to run)."""


class S3Sink(Model):
    """Objects in an S3-compatible bucket."""

    bucket: Annotated[str, Field(min_length=1, max_length=255)]
    """Name of the bucket."""
    prefix: Annotated[str, Field(max_length=512)] | None = None
    """Key prefix, without a slash at its ends."""
    region: Annotated[str, Field(max_length=63)] | None = None
    """Region of the bucket (default: that of the environment, else us-east-1)."""
    endpoint: Annotated[str, Field(max_length=2048, pattern=r"^https?://[^\s/@?#]+/?$")] | None = (
        None
    )
    """Address of an S3-compatible server instead of AWS; https unless `insecure` is true."""
    credentials_secret_ref: SecretRef | None = None
    """Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if need be, AWS_SESSION_TOKEN;
    absent: the cloud's default chain (IRSA, Pod Identity, instance role)."""
    format: S3Format | None = None
    """`csv`, gpuid's layout, always sightings (default), or `jsonl`, one record per line."""
    partition: Annotated[str, Field(max_length=255, pattern=r"^([^%]|%[YmdHMSjyV%])*$")] | None = (
        None
    )
    """strftime pattern of the key's middle part, in UTC (default
    year=%Y/month=%m/day=%d/hour=%H)."""
    insecure: bool | None = None
    """Allow an http:// endpoint (default false)."""


class SinkType(StrEnum):
    STDOUT = "stdout"
    HTTP = "http"
    POSTGRES = "postgres"
    S3 = "s3"


class Sink(Model):
    """A named destination of records: exactly one of stdout, http, postgres, s3."""

    name: Name
    """Name of the sink; in an inventory it replaces the policy's sink of the same name."""
    records: Records | None = None
    """`changes`, one record per history entry (default), or `sightings`, gpuid's way: one record
    per chassis and serial seen. CSV objects are always sightings."""
    batch: Batch | None = None
    """How records are gathered before they are sent."""
    stdout: StdoutSink | None = None
    """JSON lines in the operator's log."""
    http: HTTPSink | None = None
    """POST to a web service."""
    postgres: PostgresSink | None = None
    """Rows in PostgreSQL."""
    s3: S3Sink | None = None
    """Objects in a bucket."""

    @property
    def type(self) -> SinkType:
        """Which of the one-of is set; the first, should a server without CEL let several pass."""
        for kind in SinkType:
            if getattr(self, kind.value) is not None:
                return kind
        raise ValueError(f"sink {self.name}: give exactly one of stdout, http, postgres, s3")

    @property
    def sightings(self) -> bool:
        """Whether it gets `Sighted` records and no others."""
        if self.s3 is not None and self.s3.format in (None, S3Format.CSV):
            return True
        return self.records is Records.SIGHTINGS

    @property
    def max_records(self) -> int:
        return (self.batch and self.batch.max_records) or 500

    @property
    def max_wait(self) -> timedelta:
        wait = self.batch.max_wait if self.batch else None
        return timedelta(seconds=1) if wait is None else wait


# CEL rules of the models above, by model; the CRD generator puts them into the schema.
RULES: Final[dict[type[Model], list[dict[str, str]]]] = {
    Sink: [_ONE_OF_RULE],
    HTTPSink: [_HTTPS_RULE],
    S3Sink: [_ENDPOINT_RULE],
}
