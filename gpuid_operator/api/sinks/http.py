"""The settings of the sink `http`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from gpuid_operator.api.sinks.settings import SecretKeyRef, SinkSettings, https_unless_insecure
from gpuid_operator.api.values import Duration

# The API server's \s is ASCII, and pydantic's is Unicode; a policy that only the API server accepts
# could not be read. These classes mean the same to both.
_URL_PATTERN: Final = r"^https?://[^\t\n\f\r /@?#]+([/?][^\t\n\f\r ]*)?$"


class HTTPFormat(StrEnum):
    JSON = "json"
    CLOUDEVENTS = "cloudevents"
    OTLP = "otlp"


_OTLP_URL: Final = "https://collector.example.com:4318/v1/logs"


class HTTPSink(SinkSettings):
    """Sends records by POST as a JSON array, as a CloudEvents batch or as OTLP logs."""

    RULES: ClassVar = (
        https_unless_insecure("url"),
        {
            "rule": "!has(self.format) || self.format != 'otlp'"
            " || !self.url.matches('^[^/]*//[^/?]*/?([?].*)?$')",
            "message": f"with format otlp, url must include the path, such as {_OTLP_URL}",
        },
    )
    PATTERNS: ClassVar = {
        _URL_PATTERN: "must be a URL such as https://host.example/path, without spaces and"
        " credentials",
    }

    url: Annotated[str, Field(min_length=8, max_length=2048, pattern=_URL_PATTERN)]
    """URL to send records to, whole, also with `otlp`; https unless `insecure` is true. Put
    credentials into a Secret, not here."""
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
    """Format of the body: `json`, an array of records (default), `cloudevents`, a batch of
    CloudEvents 1.0, or `otlp`, OpenTelemetry logs in JSON."""
    timeout: Duration | None = None
    """Timeout of one request (default 30s)."""
    insecure: bool | None = None
    """Whether to allow http:// (default false)."""
