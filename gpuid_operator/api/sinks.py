"""The settings of sinks in a policy or an inventory: where and how to deliver changes."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from gpuid_operator.api.values import Duration, Model

NAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_HTTPS_RULE: Final = {
    "rule": "!self.url.startsWith('http://') || (has(self.insecure) && self.insecure)",
    "message": "url must begin with https://; set insecure: true to send in clear text",
}
_ENDPOINT_RULE: Final = {
    "rule": "!has(self.endpoint) || !self.endpoint.startsWith('http://')"
    " || (has(self.insecure) && self.insecure)",
    "message": "endpoint must begin with https://; set insecure: true to send in clear text",
}
_ONE_OF_RULE: Final = {
    "rule": "[has(self.stdout), has(self.http), has(self.postgres), has(self.s3)]"
    ".filter(x, x).size() == 1",
    "message": "set exactly one of stdout, http, postgres or s3 (stdout as `stdout: {}`)",
}

# The API server's \s is ASCII, and pydantic's is Unicode; a policy that only the API server accepts
# could not be read. These classes mean the same to both.
_URL_PATTERN: Final = r"^https?://[^\t\n\f\r /@?#]+([/?][^\t\n\f\r ]*)?$"
# Other characters in either of them make the S3 client panic, or lead to another object.
_ENDPOINT_PATTERN: Final = r"^https?://([-A-Za-z0-9._]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?$"
_BUCKET_PATTERN: Final = r"^[A-Za-z0-9][-A-Za-z0-9._]*$"

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=NAME_PATTERN)]
_Text = Annotated[str, Field(min_length=1, max_length=253)]


class Records(StrEnum):
    """Which records a sink receives."""

    CHANGES = "changes"
    SIGHTINGS = "sightings"


class HTTPFormat(StrEnum):
    JSON = "json"
    CLOUDEVENTS = "cloudevents"


class S3Format(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


class SSLMode(StrEnum):
    """Values of libpq's sslmode."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


_KEY_PATTERN: Final = r"^[-._a-zA-Z0-9]+$"
_TABLE_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_.]*$"
_PARTITION_PATTERN: Final = r"^([^%]|%[YmdHMSjyV%])*$"

PATTERNS: Final = {
    NAME_PATTERN: "must be lower-case letters, digits and hyphens, such as fleet-1,"
    " and begin and end with a letter or digit",
    _URL_PATTERN: "must be a URL such as https://host.example/path, without spaces and credentials",
    _ENDPOINT_PATTERN: "must be the URL of a server such as https://s3.example.com:9000,"
    " without a path",
    _BUCKET_PATTERN: "must be the name of a bucket: letters, digits, hyphens, underscores and dots",
    _KEY_PATTERN: "must be letters, digits, hyphens, underscores and dots, such as token",
    _TABLE_PATTERN: "must be the name of a table such as serials or fleet.serials:"
    " letters, digits and underscores",
    _PARTITION_PATTERN: "must be text with no other fields than %Y, %m, %d, %H, %M, %S, %j, %y and"
    " %V, and %% for a percent sign",
}
"""What the CRD says to a user whose value does not match a pattern."""


class SecretKeyRef(Model):
    """A key of a Secret in the namespace of the operator.

    The Secret must have the label `gpuid.github.com/sink: "true"`.
    """

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=_KEY_PATTERN)]
    """Key in the data of the Secret."""


class SecretRef(Model):
    """A Secret in the namespace of the operator. It must have the label
    `gpuid.github.com/sink: "true"`."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret."""


class Batch(Model):
    """How to batch records."""

    max_records: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Maximum number of records in a batch (default 500)."""
    max_wait: Duration | None = None
    """Maximum time that a record waits for others in its batch (default 1s)."""


class StdoutSink(Model):
    """Writes one JSON line per record to the log of the operator. Has no settings: `stdout: {}`."""


class HTTPSink(Model):
    """Sends records by POST as a JSON array or as a CloudEvents batch."""

    url: Annotated[str, Field(min_length=8, max_length=2048, pattern=_URL_PATTERN)]
    """URL to send records to; https unless `insecure` is true. Put credentials into a Secret, not
    here."""
    token_secret_ref: SecretKeyRef | None = None
    """Secret with the bearer token."""
    ca_secret_ref: SecretKeyRef | None = None
    """Secret with a PEM bundle of certificate authorities to trust instead of those of the
    system."""
    signing_secret_ref: SecretKeyRef | None = None
    """Secret with the key of the Standard Webhooks signature: plain text, or `whsec_` and
    base64."""
    headers: (
        Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=16)] | None
    ) = None
    """Additional request headers. Do not put secrets here."""
    format: HTTPFormat | None = None
    """Format of the body: `json`, an array of records (default), or `cloudevents`, a batch of
    CloudEvents 1.0."""
    timeout: Duration | None = None
    """Timeout of one request (default 30s)."""
    insecure: bool | None = None
    """Whether to allow http:// (default false)."""


class PostgresSink(Model):
    """Inserts records into a PostgreSQL table that has gpuid's columns and more."""

    host: _Text
    """Host name or IP address of the server."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port of the server (default 5432)."""
    database: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the database."""
    ssl_mode: SSLMode | None = None
    """libpq's sslmode (default require)."""
    ca_secret_ref: SecretKeyRef | None = None
    """Secret with a PEM bundle of certificate authorities for verify-ca and verify-full."""
    user_secret_ref: SecretKeyRef | None = None
    """Secret with the user name."""
    password_secret_ref: SecretKeyRef | None = None
    """Secret with the password."""
    table: Annotated[str, Field(min_length=1, max_length=127, pattern=_TABLE_PATTERN)] | None = None
    """Name of the table, optionally with its schema, such as `fleet.serials` (default
    `serials`)."""
    auto_migrate: bool | None = None
    """Whether to create or extend the table and its views (default false: report the SQL to
    run)."""


class S3Sink(Model):
    """Puts records as objects into an S3-compatible bucket."""

    bucket: Annotated[str, Field(min_length=1, max_length=255, pattern=_BUCKET_PATTERN)]
    """Name of the bucket."""
    prefix: Annotated[str, Field(max_length=512)] | None = None
    """Prefix of the object keys, without a leading or trailing slash."""
    region: Annotated[str, Field(max_length=63)] | None = None
    """Region of the bucket (default: the region of the environment, or us-east-1)."""
    endpoint: Annotated[str, Field(max_length=2048, pattern=_ENDPOINT_PATTERN)] | None = None
    """URL of an S3-compatible server instead of AWS; https unless `insecure` is true."""
    credentials_secret_ref: SecretRef | None = None
    """Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, optionally, AWS_SESSION_TOKEN
    (default: the credential chain of the cloud: IRSA, Pod Identity, instance role)."""
    format: S3Format | None = None
    """Format of the objects: `csv`, gpuid's layout with sightings only (default), or `jsonl`, one
    record per line."""
    partition: Annotated[str, Field(max_length=255, pattern=_PARTITION_PATTERN)] | None = None
    """strftime pattern, in UTC, for the part of the key after the prefix (default
    year=%Y/month=%m/day=%d/hour=%H)."""
    insecure: bool | None = None
    """Whether to allow an http:// endpoint (default false)."""


class SinkType(StrEnum):
    STDOUT = "stdout"
    HTTP = "http"
    POSTGRES = "postgres"
    S3 = "s3"


class Sink(Model):
    """A named destination of records. Set exactly one of stdout, http, postgres and s3."""

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

    @property
    def is_known(self) -> bool:
        """Whether this version of the operator knows the type that is set. A later version may have
        more types."""
        return any(getattr(self, kind.value) is not None for kind in SinkType)

    @property
    def type(self) -> SinkType:
        """The type that is set; the first one if a server without CEL accepted several."""
        for kind in SinkType:
            if getattr(self, kind.value) is not None:
                return kind
        raise ValueError(f"sink {self.name}: set exactly one of stdout, http, postgres or s3")

    @property
    def sightings(self) -> bool:
        """Whether the sink receives only `Sighted` records."""
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


# CEL rules of the models above, by model; the CRD generator adds them to the schema.
RULES: Final[dict[type[Model], list[dict[str, str]]]] = {
    Sink: [_ONE_OF_RULE],
    HTTPSink: [_HTTPS_RULE],
    S3Sink: [_ENDPOINT_RULE],
}
