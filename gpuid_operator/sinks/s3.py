"""s3: puts one object per batch and partition into an S3-compatible bucket."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import S3Sink
from gpuid_operator.sinks.addresses import resolve
from gpuid_operator.sinks.base import Refused, SecretMissing, SinkError, Unavailable, scrub
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
_CONNECT_TIMEOUT: Final = timedelta(seconds=10)
_TIMEOUT: Final = timedelta(seconds=60)

_TEMPORARY: Final = frozenset({408, 409, 425, 429})
# Errors of obstore only have the text of the response.
_STATUS: Final = re.compile(r"status code: (\d{3}) ?([A-Za-z ]*)")
_CODE: Final = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]*)</Message>")
_CAUSE: Final = re.compile(r'message: "([^"]*)"|(invalid peer certificate: \w+)')


class S3Sender:
    """Puts objects under immutable keys; if an object exists already, the delivery succeeded."""

    def __init__(
        self,
        spec: S3Sink,
        *,
        secrets: SecretSource,
        builtin: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`builtin`: the sink is the environment's own, which may send the environment's
        credentials to any endpoint."""
        self._spec = spec
        self._builtin = builtin
        self._secrets = secrets
        self._in_use = SecretsInUse()
        self._endpoint = urlsplit(spec.endpoint) if spec.endpoint else None
        self._port = self._endpoint.port if self._endpoint else None
        self._host = _host(spec, environ)
        self._store: tuple[dict[str, str], S3Store] | None = None

    async def send(self, records: Sequence[Record]) -> None:
        self._check_receiver()
        if self._endpoint is not None:
            if self._endpoint.scheme == "http" and not self._spec.insecure:
                raise Refused(
                    "endpoint must begin with https://; set insecure: true to send in clear text"
                )
            default = 443 if self._endpoint.scheme == "https" else 80
            await resolve(self._host, self._port or default)
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
        own = spec.credentials_secret_ref is None and not self._builtin
        if own and spec.endpoint and not is_aws_endpoint(spec.endpoint):
            raise Refused(
                "the operator sends its own credentials only to S3 of AWS, not to"
                f" {self._host}: set credentialsSecretRef"
            )

    async def _put(self, item: S3Object, credentials: dict[str, str]) -> None:
        try:
            await obstore.put_async(
                self._open(credentials),
                item.key,
                item.content,
                attributes={"Content-Type": item.content_type},
                mode="create",
                use_multipart=False,
            )
        except AlreadyExistsError as error:
            # 412: the object exists. 409: another upload is in progress and may still fail.
            if _status(str(error)) == 409:
                raise Unavailable(self._message_of(error, credentials)) from None
        except (BaseError, OSError, ValueError) as error:
            raise self._sink_error(error, credentials) from None

    def _sink_error(self, error: Exception, credentials: dict[str, str]) -> SinkError:
        """The SinkError for an error of obstore, whose text has object keys and whole XML
        bodies."""
        told = self._message_of(error, credentials)
        status = _status(str(error))
        if status in (401, 403):
            self._secrets.invalidate()
        if status:
            temporary = status >= 500 or status in _TEMPORARY
        else:
            # AWS responds with a redirect if the bucket is in another region.
            temporary = isinstance(error, BaseError) and "redirect" not in str(error)
        return Unavailable(told) if temporary else Refused(told)

    def _message_of(self, error: Exception, credentials: dict[str, str]) -> str:
        text = str(error)
        tried = f"failed to put an object into bucket {self._spec.bucket} at {self._host}"
        status, code, message = _STATUS.search(text), _CODE.search(text), _MESSAGE.search(text)
        if status is not None:
            said = f"{status[1]} {status[2].strip()}"
            said += f" {code[1]}" if code else ""
            said += f": {message[1]}" if message else ""
        else:
            said = text.partition("\n")[0].rpartition(" - ")[2]
            causes = [found[0] or found[1] for found in _CAUSE.findall(text)]
            said += f" ({causes[-1]})" if causes else ""
        return f"{tried}: {scrub(said, credentials.values())}"

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
    client: ClientConfig = {"connect_timeout": _CONNECT_TIMEOUT, "timeout": _TIMEOUT}
    if spec.region:
        config["region"] = spec.region
    if spec.endpoint:
        # AWS_ENDPOINT_URL_S3 of the environment would take precedence over `endpoint`.
        config["aws_endpoint_url_s3"] = spec.endpoint.rstrip("/")
        config["virtual_hosted_style_request"] = False
        client["allow_http"] = bool(spec.insecure)

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


def _host(spec: S3Sink, environ: Mapping[str, str]) -> str:
    """The host of the requests, which the allowed hosts of a Secret must include."""
    endpoint = (
        spec.endpoint or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    )
    if endpoint:
        return urlsplit(endpoint).hostname or ""
    region = spec.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    return f"s3.{region or _DEFAULT_REGION}.amazonaws.com"


def _status(text: str) -> int:
    """The HTTP status in the text of an error; 0 without a response."""
    found = _STATUS.search(text)
    return int(found[1]) if found else 0
