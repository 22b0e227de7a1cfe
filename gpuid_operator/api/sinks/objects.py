"""The settings that the sinks with object stores (`s3`, `gcs`, `azure`) share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from gpuid_operator.api.sinks.settings import SecretRef, SinkSettings, https_unless_insecure

# Other characters in either of them make obstore panic, or lead to another object.
_ENDPOINT_PATTERN: Final = r"^https?://([-A-Za-z0-9._]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?$"
_BUCKET_PATTERN: Final = r"^[A-Za-z0-9][-A-Za-z0-9._]*$"
_PARTITION_PATTERN: Final = r"^([^%]|%[YmdHMSjyV%])*$"

BucketName = Annotated[str, Field(min_length=1, max_length=255, pattern=_BUCKET_PATTERN)]
Endpoint = Annotated[str, Field(max_length=2048, pattern=_ENDPOINT_PATTERN)]


class ObjectFormat(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


class ObjectSink(SinkSettings):
    """Puts records as objects into a bucket."""

    RULES: ClassVar[tuple[dict[str, str], ...]] = (https_unless_insecure("endpoint"),)
    PATTERNS: ClassVar[dict[str, str]] = {
        _ENDPOINT_PATTERN: "must be the URL of a server such as https://s3.example.com:9000,"
        " without a path",
        _BUCKET_PATTERN: "must be the name of a bucket: letters, digits, hyphens, underscores and"
        " dots",
        _PARTITION_PATTERN: "must be text with no other fields than %Y, %m, %d, %H, %M, %S, %j, %y"
        " and %V, and %% for a percent sign",
    }

    prefix: Annotated[str, Field(max_length=512)] | None = None
    """Prefix of the object keys, without a leading or trailing slash."""
    endpoint: Endpoint | None = None
    """URL of the server; https unless `insecure` is true."""
    credentials_secret_ref: SecretRef | None = None
    """Secret with credentials (default: the credential chain of the cloud)."""
    format: ObjectFormat | None = None
    """Format of the objects: `csv`, gpuid's layout with sightings only (default), or `jsonl`, one
    record per line."""
    partition: Annotated[str, Field(max_length=255, pattern=_PARTITION_PATTERN)] | None = None
    """strftime pattern, in UTC, for the part of the key after the prefix (default
    year=%Y/month=%m/day=%d/hour=%H)."""
    insecure: bool | None = None
    """Whether to allow an http:// endpoint (default false)."""

    @property
    def only_sightings(self) -> bool:
        return self.format in (None, ObjectFormat.CSV)
