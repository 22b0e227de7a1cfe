"""The settings of the sink `s3`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from gpuid_operator.api.sinks.settings import SecretRef, SinkSettings, https_unless_insecure

# Other characters in either of them make the S3 client panic, or lead to another object.
_ENDPOINT_PATTERN: Final = r"^https?://([-A-Za-z0-9._]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?$"
_BUCKET_PATTERN: Final = r"^[A-Za-z0-9][-A-Za-z0-9._]*$"
_PARTITION_PATTERN: Final = r"^([^%]|%[YmdHMSjyV%])*$"


class S3Format(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


class S3Sink(SinkSettings):
    """Puts records as objects into an S3-compatible bucket."""

    RULES: ClassVar = (https_unless_insecure("endpoint"),)
    PATTERNS: ClassVar = {
        _ENDPOINT_PATTERN: "must be the URL of a server such as https://s3.example.com:9000,"
        " without a path",
        _BUCKET_PATTERN: "must be the name of a bucket: letters, digits, hyphens, underscores and"
        " dots",
        _PARTITION_PATTERN: "must be text with no other fields than %Y, %m, %d, %H, %M, %S, %j, %y"
        " and %V, and %% for a percent sign",
    }

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

    @property
    def only_sightings(self) -> bool:
        return self.format in (None, S3Format.CSV)
