"""gcs: puts objects into a bucket of Google Cloud Storage, through its JSON API.

Every request has a bearer token. A token signs no URL, and the signature of a URL would not cover
the precondition.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from yarl import URL

from gpuid_operator.api.sinks import GCSSink
from gpuid_operator.sinks.base import Refused
from gpuid_operator.sinks.cloud_endpoints import is_google_endpoint
from gpuid_operator.sinks.gcs_credentials import KEY, ServiceAccount, own_token_request
from gpuid_operator.sinks.http_client import Answer
from gpuid_operator.sinks.object_sender import ObjectSender, Upload, required
from gpuid_operator.sinks.objects import StoredObject
from gpuid_operator.sinks.opening import SinkOpening
from gpuid_operator.sinks.tokens import TokenSource

_SERVER: Final = "https://storage.googleapis.com"
_EXISTS: Final = 412
_DELETE_RIGHT: Final = "storage.objects.delete"
_CREATE_RIGHT: Final = "storage.objects.create"


def open_sink(spec: GCSSink, opening: SinkOpening) -> ObjectSender:
    return ObjectSender(spec, GCSBucket(spec, os.environ), opening)


class GCSBucket:
    """Uploads with a bearer token."""

    provider = "Cloud Storage of Google"

    def __init__(self, spec: GCSSink, environ: Mapping[str, str], *, server: str = _SERVER) -> None:
        self.endpoint = (spec.endpoint or server).rstrip("/")
        host = urlsplit(self.endpoint).hostname
        self.name = spec.bucket
        self.tried = f"failed to put an object into bucket {spec.bucket} at {host}"
        self._upload = f"{self.endpoint}/upload/storage/v1/b/{spec.bucket}/o?uploadType=media"
        self._environ = environ
        self._tokens = TokenSource()
        self._secret = spec.credentials_secret_ref.name if spec.credentials_secret_ref else ""
        self._account: tuple[str, ServiceAccount] | None = None

    def is_own(self) -> bool:
        return is_google_endpoint(self.endpoint)

    def select(self, values: Mapping[str, str], *, secret: str) -> dict[str, str]:
        return required(values, KEY, secret=secret)

    async def prepare(self, item: StoredObject, credentials: Mapping[str, str]) -> Upload:
        token = await self._token(credentials)
        # Generation 0: there is no object under this name.
        condition = f"ifGenerationMatch=0&name={quote(item.key, safe='')}"
        return Upload(
            method="POST",
            url=URL(f"{self._upload}&{condition}", encoded=True),
            headers={"Authorization": f"Bearer {token}"},
            secrets=(token,),
        )

    def exists(self, answer: Answer) -> bool:
        # The right to delete is required only to replace an object: a writer without it may learn
        # of the object by 403 instead of 412. One without any right does not.
        only_delete = _DELETE_RIGHT in answer.text and _CREATE_RIGHT not in answer.text
        return answer.status == _EXISTS or (answer.status == 403 and only_delete)

    def invalidate(self) -> None:
        self._tokens.invalidate()

    async def close(self) -> None:
        self._account = None
        await self._tokens.close()

    async def _token(self, credentials: Mapping[str, str]) -> str:
        if not credentials:
            return await self._tokens.get(own_token_request(self._environ))
        text = credentials[KEY]
        if self._account is None or self._account[0] != text:
            try:
                self._account = (text, await asyncio.to_thread(ServiceAccount.load, text))
            except ValueError as error:
                raise Refused(
                    f"key {KEY} of Secret {self._secret} is not the JSON key of a service account"
                    f" ({error}): replace it"
                ) from None
        return self._account[1].sign(time.time())
