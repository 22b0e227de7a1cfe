"""Puts one object per batch and partition into a bucket: what the sinks `s3`, `gcs` and `azure`
have in common. They differ in how a request is made and in what its responses mean."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from yarl import URL

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import ObjectSink
from gpuid_operator.sinks.base import Refused, SecretMissing, SinkError, Unavailable, scrub
from gpuid_operator.sinks.http_client import Answer, retry_after_seconds
from gpuid_operator.sinks.objects import StoredObject, objects_of
from gpuid_operator.sinks.opening import SinkOpening
from gpuid_operator.telemetry.log import SecretsInUse, get_logger

_log = get_logger(__name__)

_TIMEOUT: Final = 60.0
_TEMPORARY: Final = frozenset({408, 409, 425, 429})
_CREDENTIALS_REFUSED: Final = frozenset({401, 403})
# No provider has all of these, and a URL has none of them.
_BAD_KEY: Final = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)\.\.?(?:/|$)")
_CODE: Final = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]*)</Message>")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """The request that creates an object, and fails if there is one under its key."""

    method: str = "PUT"
    url: URL
    headers: Mapping[str, str]
    secrets: Sequence[str] = ()
    """What neither a message nor the log may contain."""


class Bucket(Protocol):
    """A bucket of one provider."""

    name: str
    """Name of the bucket, or of the container of Azure."""
    tried: str
    """The beginning of every message, such as `failed to put an object into bucket b at host`."""
    endpoint: str
    """URL of the server, which receives the credentials."""
    provider: str
    """To whom the operator sends its own credentials, such as `S3 of AWS`."""

    def is_own(self) -> bool:
        """Whether the server belongs to the cloud."""

    def select(self, values: Mapping[str, str], *, secret: str) -> dict[str, str]:
        """The credentials among the values of a Secret. Raises SecretMissing and Refused."""

    async def prepare(self, item: StoredObject, credentials: Mapping[str, str]) -> Upload:
        """The request for an object. Without credentials, those of the cloud's chain are used.
        Raises SinkError."""

    def exists(self, answer: Answer) -> bool:
        """Whether a response means that there is an object under the key."""

    def invalidate(self) -> None:
        """Get another token for the next request, because the server refused this one."""

    async def close(self) -> None:
        """Close connections."""


class ObjectSender:
    """Puts objects under immutable keys; if an object exists already, the delivery succeeded."""

    def __init__(self, spec: ObjectSink, bucket: Bucket, opening: SinkOpening) -> None:
        """Raises ValueError if the endpoint is no URL of a server."""
        self._spec = spec
        self._bucket = bucket
        self._secrets = opening.secrets
        self._client = opening.context.http
        # The sink of the environment may send the environment's credentials to any endpoint.
        self._builtin = opening.builtin
        self._in_use = SecretsInUse()
        server = urlsplit(bucket.endpoint)
        self._host = server.hostname or ""
        _ = server.port  # raises ValueError if it is none

    async def send(self, records: Sequence[Record]) -> None:
        self._check_receiver()
        credentials = await self._credentials()
        for item in objects_of(records, self._spec):
            await self._put(item, credentials)

    async def close(self) -> None:
        self._in_use.set()
        await self._bucket.close()

    def _check_receiver(self) -> None:
        """Raises Refused if a user could make the operator send its credentials to another server
        than those of the cloud."""
        if self._bucket.endpoint.startswith("http://") and not self._spec.insecure:
            raise Refused(
                "endpoint must begin with https://; set insecure: true to send in clear text"
            )
        own = self._spec.credentials_secret_ref is None and not self._builtin
        if own and self._spec.endpoint and not self._bucket.is_own():
            raise Refused(
                f"the operator sends its own credentials only to {self._bucket.provider}, not to"
                f" {self._host}: set credentialsSecretRef"
            )

    async def _credentials(self) -> dict[str, str]:
        """The values of the Secret; empty without one, for the credential chain of the cloud."""
        ref = self._spec.credentials_secret_ref
        if ref is None:
            return {}
        values = await self._secrets.get_all(ref, host=self._host)
        return self._bucket.select(values, secret=ref.name)

    async def _put(self, item: StoredObject, credentials: Mapping[str, str]) -> None:
        if _BAD_KEY.search(item.key):
            raise Refused(
                f"{self._bucket.provider} cannot store an object as {item.key}: change the prefix"
                " or the partition"
            )
        self._in_use.set(*credentials.values())
        upload = await self._bucket.prepare(item, credentials)
        self._in_use.set(*credentials.values(), *upload.secrets)
        answer = await self._client.upload(
            upload.method,
            upload.url,
            body=item.content,
            headers={
                "Content-Type": item.content_type,
                "User-Agent": MANAGER,
                **upload.headers,
            },
            timeout=_TIMEOUT,
            tried=self._bucket.tried,
        )
        if not answer.succeeded and not self._bucket.exists(answer):
            raise self._failure(answer, [*credentials.values(), *upload.secrets])
        _log.info(
            "export completed",
            bucket=self._bucket.name,
            key=item.key,
            records=item.records,
            size_bytes=len(item.content),
        )

    def _failure(self, answer: Answer, secrets: Sequence[str]) -> SinkError:
        """The SinkError for a response other than success, from its status and body."""
        message = _message(answer)
        # Azure has the message there, too.
        phrase = "" if message.startswith(answer.phrase) else answer.phrase
        said = " ".join(filter(None, [str(answer.status), phrase, code(answer)]))
        text = scrub(f"{said}: {message}" if message else said, secrets)
        if answer.status in _CREDENTIALS_REFUSED:
            self._secrets.invalidate()
            self._bucket.invalidate()
        temporary = answer.status >= 500 or answer.status in _TEMPORARY
        return (Unavailable if temporary else Refused)(
            f"{self._bucket.tried}: {text}",
            retry_after=retry_after_seconds(answer, now=datetime.now(UTC)),
        )


def code(answer: Answer) -> str:
    """The provider's name of an error, such as `NoSuchBucket`, or nothing."""
    found = _CODE.search(answer.text)
    if found:
        return found[1]
    errors = _google_error(answer).get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    return str(first.get("reason") or "") if isinstance(first, dict) else ""


def _message(answer: Answer) -> str:
    found = _MESSAGE.search(answer.text)
    return found[1] if found else str(_google_error(answer).get("message") or "")


def _google_error(answer: Answer) -> dict[str, Any]:
    """The error in a response of a JSON API of Google; empty if it is something else."""
    with suppress(ValueError, RecursionError):
        error = json.loads(answer.text)["error"] if answer.text.startswith("{") else None
        if isinstance(error, dict):
            return error
    return {}


def required(values: Mapping[str, str], *keys: str, secret: str) -> dict[str, str]:
    """These values of a Secret. Raises SecretMissing."""
    for key in keys:
        if not values.get(key):
            raise SecretMissing(f"Secret {secret} has no key {key}: add it")
    return {key: values[key] for key in keys}
