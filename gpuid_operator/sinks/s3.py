"""s3: puts one object per batch and partition into an S3-compatible bucket.

obstore knows the credential chains of the clouds and signs the URL of each put. The put itself uses
the HTTP client of the sinks, which bounds what a server can make the operator read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store
from yarl import URL

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import S3Sink
from gpuid_operator.sinks.base import Refused, SecretMissing, SinkError, Unavailable, scrub
from gpuid_operator.sinks.http_client import Answer, HTTPClient
from gpuid_operator.sinks.opening import SinkOpening
from gpuid_operator.sinks.s3_endpoint import is_aws_endpoint, is_region
from gpuid_operator.sinks.s3_objects import S3Object, objects_of
from gpuid_operator.sinks.secrets import SecretSource
from gpuid_operator.telemetry.log import SecretsInUse

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential

_ACCESS_KEY: Final = "AWS_ACCESS_KEY_ID"
_SECRET_KEY: Final = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - a name, as the next
_SESSION_TOKEN: Final = "AWS_SESSION_TOKEN"  # noqa: S105
_DEFAULT_REGION: Final = "us-east-1"
_TIMEOUT: Final = 60.0
_CREDENTIALS_TIMEOUT: Final = timedelta(seconds=10)
# The difference of clocks that S3 tolerates in signatures of headers, too.
_VALIDITY: Final = timedelta(minutes=15)

_EXISTS: Final = 412
_TEMPORARY: Final = frozenset({408, 409, 425, 429})
_CODE: Final = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]*)</Message>")


def open_sink(spec: S3Sink, opening: SinkOpening) -> S3Sender:
    return S3Sender(
        spec,
        secrets=opening.secrets,
        client=opening.context.http,
        builtin=opening.builtin,
    )


class S3Sender:
    """Puts objects under immutable keys; if an object exists already, the delivery succeeded."""

    def __init__(
        self,
        spec: S3Sink,
        *,
        secrets: SecretSource,
        client: HTTPClient,
        builtin: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`builtin`: the sink is the environment's own, which may send the environment's
        credentials to any endpoint."""
        self._spec = spec
        self._builtin = builtin
        self._secrets = secrets
        self._in_use = SecretsInUse()
        self._client = client
        self._endpoint = _endpoint(spec, environ)
        self._host = urlsplit(self._endpoint).hostname or ""
        self._store: tuple[dict[str, str], S3Store] | None = None

    async def send(self, records: Sequence[Record]) -> None:
        self._check_receiver()
        credentials = await self._credentials()
        for item in objects_of(records, self._spec):
            await self._put(item, credentials)

    async def close(self) -> None:
        self._store = None
        self._in_use.set()

    def _check_receiver(self) -> None:
        """Raises Refused if a user could make the operator send its credentials to another server
        than AWS."""
        spec = self._spec
        if spec.region and not is_region(spec.region):
            raise Refused("region must consist of lower-case letters, digits and hyphens")
        if self._endpoint.startswith("http://") and not spec.insecure:
            raise Refused(
                "endpoint must begin with https://; set insecure: true to send in clear text"
            )
        own = spec.credentials_secret_ref is None and not self._builtin
        if own and spec.endpoint and not is_aws_endpoint(spec.endpoint):
            raise Refused(
                "the operator sends its own credentials only to S3 of AWS, not to"
                f" {self._host}: set credentialsSecretRef"
            )

    async def _put(self, item: S3Object, credentials: dict[str, str]) -> None:
        answer = await self._client.put(
            await self._sign(item.key, credentials),
            body=item.content,
            headers={
                "Content-Type": item.content_type,
                "If-None-Match": "*",
                "User-Agent": MANAGER,
            },
            timeout=_TIMEOUT,
            tried=self._tried,
        )
        if not answer.succeeded and answer.status != _EXISTS:
            raise self._failure(answer, credentials)

    async def _sign(self, key: str, credentials: dict[str, str]) -> URL:
        """The URL of a put, signed; it holds no secret but a session token."""
        try:
            store = self._open(credentials)
            url = await obstore.sign_async(store, "PUT", key, _VALIDITY)
        except TypeError as error:
            raise Refused(f"S3 cannot store an object as {key}: change the prefix") from error
        except ValueError as error:
            raise Refused(f"{self._tried}: {scrub(str(error), credentials.values())}") from error
        except (BaseError, OSError) as error:
            # The rest of the text is a dump of obstore's own structures.
            said = str(error).partition("\n")[0].rpartition(" - ")[2]
            raise Unavailable(f"{self._tried}: no credentials: {said}") from None
        return URL(url, encoded=True)

    def _failure(self, answer: Answer, credentials: dict[str, str]) -> SinkError:
        """The SinkError for a response other than success, from its status and XML body."""
        said = f"{answer.status} {answer.phrase}"
        code, message = _CODE.search(answer.text), _MESSAGE.search(answer.text)
        said += f" {code[1]}" if code else ""
        said += f": {message[1]}" if message else ""
        text = f"{self._tried}: {scrub(said, credentials.values())}"
        if answer.status in (401, 403):
            self._secrets.invalidate()
        temporary = answer.status >= 500 or answer.status in _TEMPORARY
        return Unavailable(text) if temporary else Refused(text)

    @property
    def _tried(self) -> str:
        return f"failed to put an object into bucket {self._spec.bucket} at {self._host}"

    async def _credentials(self) -> dict[str, str]:
        """The AWS_ values of the Secret; empty without one, for the credential chain of the
        cloud."""
        ref = self._spec.credentials_secret_ref
        if ref is None:
            return {}
        values = await self._secrets.get_all(ref, host=self._host)
        for key in (_ACCESS_KEY, _SECRET_KEY):
            if not values.get(key):
                raise SecretMissing(f"Secret {ref.name} has no key {key}: add it")
        self._in_use.set(*(values.get(key, "") for key in (_SECRET_KEY, _SESSION_TOKEN)))
        return {
            key: values[key] for key in (_ACCESS_KEY, _SECRET_KEY, _SESSION_TOKEN) if key in values
        }

    def _open(self, credentials: dict[str, str]) -> S3Store:
        """The store; a new one if the credentials changed."""
        if self._store is None or self._store[0] != credentials:
            self._store = (credentials, _store(self._spec, credentials))
        return self._store[1]


def _store(spec: S3Sink, credentials: dict[str, str]) -> S3Store:
    config: S3Config = {}
    client: ClientConfig = {
        "connect_timeout": _CREDENTIALS_TIMEOUT,
        "timeout": _CREDENTIALS_TIMEOUT,
    }
    if spec.region:
        config["region"] = spec.region
    if spec.endpoint:
        # AWS_ENDPOINT_URL_S3 of the environment would take precedence over `endpoint`.
        config["aws_endpoint_url_s3"] = spec.endpoint.rstrip("/")
        config["virtual_hosted_style_request"] = False

    def provide() -> S3Credential:
        # obstore would combine plain keys with a session token of the environment.
        return {
            "access_key_id": credentials[_ACCESS_KEY],
            "secret_access_key": credentials[_SECRET_KEY],
            "token": credentials.get(_SESSION_TOKEN),
            "expires_at": None,
        }

    return S3Store(
        spec.bucket,
        config=config,
        client_options=client,
        retry_config={"max_retries": 0},
        credential_provider=provide if credentials else None,
    )


def _endpoint(spec: S3Sink, environ: Mapping[str, str]) -> str:
    """The URL of the server, whose host the allowed hosts of a Secret must include."""
    endpoint = (
        spec.endpoint or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    )
    region = spec.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    return endpoint or f"https://s3.{region or _DEFAULT_REGION}.amazonaws.com"
