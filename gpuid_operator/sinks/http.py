"""http: sends records by POST, in one of the formats of `http_formats`."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import orjson
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import HTTPFormat, HTTPSink, SecretKeyRef
from gpuid_operator.api.values import format_time
from gpuid_operator.sinks.base import RecordsRefused, Refused, SinkError, Unavailable, scrub
from gpuid_operator.sinks.http_client import (
    MAX_ANSWER,
    Answer,
    HTTPClient,
    describe,
    origin,
    retry_after_seconds,
)
from gpuid_operator.sinks.http_formats import FORMATS, Format
from gpuid_operator.sinks.opening import SinkOpening
from gpuid_operator.sinks.secrets import SecretSource
from gpuid_operator.telemetry.log import SecretsInUse, get_logger

_log = get_logger(__name__)

_DEFAULT_TIMEOUT: Final = 30.0
_SIGNED_PREFIX: Final = "whsec_"

_RECORDS_REFUSED: Final = frozenset({400, 413, 422})
_CREDENTIALS_REFUSED: Final = frozenset({401, 403})

_OWN_HEADERS: Final = frozenset(
    {"authorization", "content-type", "idempotency-key", "host", "user-agent", "content-length"}
    | {"content-encoding", "transfer-encoding", "connection", "expect", "te", "trailer", "upgrade"}
    | {"webhook-id", "webhook-timestamp", "webhook-signature", "proxy-authorization", "cookie"}
    | {"x-records-count", "x-timestamp"}
)
_TOKEN: Final = frozenset(
    "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def open_sink(spec: HTTPSink, opening: SinkOpening) -> HTTPSender:
    return HTTPSender(spec, secrets=opening.secrets, client=opening.context.http)


class HTTPSender:
    """Sends batches to one URL. It asks for the secrets with each batch, to use new values at
    once."""

    def __init__(
        self,
        spec: HTTPSink,
        *,
        secrets: SecretSource,
        client: HTTPClient,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._spec = spec
        self._secrets = secrets
        self._in_use = SecretsInUse()
        self._client = client
        self._now = now
        self._format = FORMATS[spec.format or HTTPFormat.JSON]
        self._host = urlsplit(spec.url).hostname
        self._timeout = spec.timeout.total_seconds() if spec.timeout else _DEFAULT_TIMEOUT
        self._tls: tuple[str, ssl.SSLContext] | None = None

    async def send(self, records: Sequence[Record]) -> None:
        if self._spec.url.startswith("http://") and not self._spec.insecure:
            raise Refused("url must begin with https://; set insecure: true to send in clear text")
        token = await self._secret(self._spec.token_secret_ref)
        signing_key = await self._secret(self._spec.signing_secret_ref)
        authorities = await self._secret(self._spec.ca_secret_ref)
        secrets = [secret for secret in (token, signing_key) if secret]
        self._in_use.set(*secrets)
        key = idempotency_key(records)
        body = orjson.dumps(self._format.encode(records))
        headers = _user_headers(self._spec.headers or {}) | {
            "Content-Type": self._format.content_type,
            "Idempotency-Key": key,
            "User-Agent": MANAGER,
            "X-Records-Count": str(len(records)),
            "X-Timestamp": format_time(self._now()),
        }
        if token is not None:
            headers["Authorization"] = f"Bearer {_header_value(token, 'the token')}"
        if signing_key is not None:
            headers |= _signature(signing_key, message_id=key, time=self._now(), body=body)
        answer = await self._client.post(
            self._spec.url,
            body=body,
            headers=headers,
            timeout=self._timeout,
            tls=None if authorities is None else self._context(authorities),
            read_success=self._format.rejection is not None,
        )
        if answer.status in _CREDENTIALS_REFUSED:
            self._secrets.invalidate()
        error = failure(
            answer,
            form=self._format,
            tried=describe(self._spec.url),
            secrets=secrets,
            now=self._now(),
        )
        if error is not None:
            raise error
        _log.info(
            "export completed",
            endpoint=origin(self._spec.url),
            records=len(records),
            size_bytes=len(body),
            status=answer.status,
        )

    async def close(self) -> None:
        self._in_use.set()  # the client is shared

    async def _secret(self, ref: SecretKeyRef | None) -> str | None:
        return None if ref is None else await self._secrets.get(ref, host=self._host)

    def _context(self, authorities: str) -> ssl.SSLContext:
        if self._tls is None or self._tls[0] != authorities:
            try:
                context = ssl.create_default_context(cadata=authorities)
            except (ssl.SSLError, ValueError) as error:
                raise Refused("caSecretRef contains no PEM certificate: add one") from error
            self._tls = (authorities, context)
        return self._tls[1]


def idempotency_key(records: Sequence[Record]) -> str:
    """A key that is the same whenever the same records are sent in the same order."""
    return hashlib.sha256("\n".join(record.id for record in records).encode()).hexdigest()


def failure(
    answer: Answer, *, form: Format, tried: str, secrets: Sequence[str], now: datetime
) -> SinkError | None:
    """The error for a response; None if every record arrived.

    | status                               |                                                      |
    |--------------------------------------|------------------------------------------------------|
    | 2xx                                  | none; RecordsRefused if the body rejects records     |
    | 400, 413, 422                        | RecordsRefused                                       |
    | 408, 409, 421, 425, 429, 5xx         | Unavailable, with Retry-After (otlp: only 429, 502,  |
    |                                      | 503, 504)                                            |
    | others: 3xx, 401, 403, 404, 410, …   | Refused (410: the consumer says stop)                |
    """
    said = answer.text
    if answer.succeeded:
        rejected = _rejection(answer, form)
        if rejected is None:
            return None
        said = rejected
    said = scrub(said, secrets, truncated=answer.truncated)
    if 300 <= answer.status < 400:
        said = "redirects are not followed; set url to the target of the redirect"
    message = f"{tried}: {answer.status} {answer.phrase}" + (f": {said}" if said else "")
    retry_after = retry_after_seconds(answer, now=now)
    if answer.succeeded or answer.status in _RECORDS_REFUSED:
        return RecordsRefused(message, retry_after=retry_after)
    if answer.status in form.temporary:
        return Unavailable(message, retry_after=retry_after)
    return Refused(message, retry_after=retry_after)


def _rejection(answer: Answer, form: Format) -> str | None:
    """Why a 2xx response says that records did not arrive."""
    if form.rejection is None:
        return None
    if answer.truncated:
        # What it says cannot be known. Responses to fewer records are shorter.
        return f"the response is longer than {MAX_ANSWER} bytes: {answer.text}"
    return form.rejection(answer.text)


def _signature(key: str, *, message_id: str, time: datetime, body: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks; the key is plain text, or `whsec_` and base64."""
    try:
        webhook = Webhook(key if key.startswith(_SIGNED_PREFIX) else key.encode())
    except (EmptyWebhookSecretError, ValueError) as error:
        raise Refused(
            "signingSecretRef contains no usable key: use plain text, or whsec_ and base64"
        ) from error
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(time.timestamp())),
        "webhook-signature": webhook.sign(message_id, time, body.decode()),
    }


def _user_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not name or not _TOKEN.issuperset(name):
            raise Refused(f"headers: {name!r} is not a valid name of an HTTP header")
        if name.lower() in _OWN_HEADERS:
            raise Refused(
                f"headers: the operator sets {name}; remove it"
                " (for credentials, use tokenSecretRef or signingSecretRef)"
            )
        _header_value(value, f"headers: the value of {name}")
    return dict(headers)


def _header_value(value: str, what: str) -> str:
    if not value or not value.isascii() or not value.isprintable():
        raise Refused(f"{what} must be printable ASCII on one line, and not empty")
    return value
