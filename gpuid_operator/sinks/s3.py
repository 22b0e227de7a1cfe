"""s3: puts objects into an S3-compatible bucket.

obstore knows the credential chain of AWS and signs the URL of each put. The put itself uses the
HTTP client of the sinks, which bounds what a server can make the operator read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store
from yarl import URL

from gpuid_operator.api.sinks import S3Sink
from gpuid_operator.sinks.base import Refused, Unavailable, scrub
from gpuid_operator.sinks.cloud_endpoints import is_aws_endpoint, is_region
from gpuid_operator.sinks.http_client import Answer
from gpuid_operator.sinks.object_sender import ObjectSender, Upload, required
from gpuid_operator.sinks.objects import StoredObject
from gpuid_operator.sinks.opening import SinkOpening

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential

_ACCESS_KEY: Final = "AWS_ACCESS_KEY_ID"
_SECRET_KEY: Final = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - a name, as the next
_SESSION_TOKEN: Final = "AWS_SESSION_TOKEN"  # noqa: S105
_DEFAULT_REGION: Final = "us-east-1"
_CREDENTIALS_TIMEOUT: Final = timedelta(seconds=10)
# The difference of clocks that S3 tolerates in signatures of headers, too.
_VALIDITY: Final = timedelta(minutes=15)

_EXISTS: Final = 412


def open_sink(spec: S3Sink, opening: SinkOpening) -> ObjectSender:
    return ObjectSender(spec, S3Bucket(spec, os.environ), opening)


class S3Bucket:
    """The URLs of puts, each with a signature."""

    provider = "S3 of AWS"

    def __init__(self, spec: S3Sink, environ: Mapping[str, str]) -> None:
        """Raises ValueError if the region cannot be a part of a host name."""
        if spec.region and not is_region(spec.region):
            raise ValueError("region must consist of lower-case letters, digits and hyphens")
        self._spec = spec
        self.endpoint = _endpoint(spec, environ)
        host = urlsplit(self.endpoint).hostname
        self.name = spec.bucket
        self.tried = f"failed to put an object into bucket {spec.bucket} at {host}"
        self._store: tuple[Mapping[str, str], S3Store] | None = None

    def is_own(self) -> bool:
        return is_aws_endpoint(self.endpoint)

    def select(self, values: Mapping[str, str], *, secret: str) -> dict[str, str]:
        keys = required(values, _ACCESS_KEY, _SECRET_KEY, secret=secret)
        token = values.get(_SESSION_TOKEN)
        return keys if token is None else {**keys, _SESSION_TOKEN: token}

    async def prepare(self, item: StoredObject, credentials: Mapping[str, str]) -> Upload:
        url = await self._sign(item.key, credentials)
        return Upload(url=url, headers={"If-None-Match": "*"})

    def exists(self, answer: Answer) -> bool:
        return answer.status == _EXISTS

    def invalidate(self) -> None:
        """Do nothing: obstore renews the credentials of the chain."""

    async def close(self) -> None:
        self._store = None

    async def _sign(self, key: str, credentials: Mapping[str, str]) -> URL:
        """The URL of a put, signed; it holds no secret but a session token."""
        try:
            store = self._open(credentials)
            url = await obstore.sign_async(store, "PUT", key, _VALIDITY)
        except TypeError as error:
            raise Refused(f"S3 cannot store an object as {key}: change the prefix") from error
        except ValueError as error:
            raise Refused(f"{self.tried}: {scrub(str(error), credentials.values())}") from error
        except (BaseError, OSError) as error:
            # The rest of the text is a dump of obstore's own structures.
            said = str(error).partition("\n")[0].rpartition(" - ")[2]
            raise Unavailable(f"{self.tried}: no credentials: {said}") from None
        return URL(url, encoded=True)

    def _open(self, credentials: Mapping[str, str]) -> S3Store:
        """The store; a new one if the credentials changed."""
        if self._store is None or self._store[0] != credentials:
            self._store = (credentials, _store(self._spec, credentials))
        return self._store[1]


def _store(spec: S3Sink, credentials: Mapping[str, str]) -> S3Store:
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
