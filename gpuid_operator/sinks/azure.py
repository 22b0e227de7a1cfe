"""azure: puts blobs into a container of Azure Blob Storage.

Requests have the signature of an account key, a SAS token, or a bearer token of the operator's own
identity. The signature is that of the request's headers: a SAS of our own would begin now, and
Azure refuses one that begins in its future.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlencode, urlsplit

from yarl import URL

from gpuid_operator.api.sinks import AzureSink
from gpuid_operator.sinks.base import Refused, SecretMissing
from gpuid_operator.sinks.cloud_endpoints import is_azure_endpoint
from gpuid_operator.sinks.http_client import Answer
from gpuid_operator.sinks.object_sender import ObjectSender, Upload, code
from gpuid_operator.sinks.objects import StoredObject
from gpuid_operator.sinks.opening import SinkOpening
from gpuid_operator.sinks.tokens import METADATA_SERVER, TokenRequest, TokenSource

KEY: Final = "AZURE_STORAGE_ACCOUNT_KEY"
SAS: Final = "AZURE_STORAGE_SAS_TOKEN"
TOKEN_FILE: Final = "AZURE_FEDERATED_TOKEN_FILE"  # noqa: S105 - a name
_PUBLIC_AUTHORITY: Final = "https://login.microsoftonline.com/"
_RESOURCE: Final = "https://storage.azure.com/"
_VERSION: Final = "2023-11-03"
_PARAMETER: Final = r"[A-Za-z0-9]+=[-A-Za-z0-9._~%+/:=]*"
_SAS: Final = re.compile(rf"\??{_PARAMETER}(?:&{_PARAMETER})*")
_SIGNATURE: Final = re.compile(r"(?:^|[?&])sig=([^&]+)")

_EXISTS: Final = 412
_EXISTS_CODES: Final = frozenset({"BlobAlreadyExists", "UnauthorizedBlobOverwrite"})


def open_sink(spec: AzureSink, opening: SinkOpening) -> ObjectSender:
    return ObjectSender(spec, AzureContainer(spec, os.environ), opening)


class AzureContainer:
    """Put Blob, with the authorization that there is."""

    provider = "Blob Storage of Azure"

    def __init__(
        self, spec: AzureSink, environ: Mapping[str, str], *, server: str | None = None
    ) -> None:
        default = server or f"https://{spec.account}.blob.core.windows.net"
        self.endpoint = (spec.endpoint or default).rstrip("/")
        host = urlsplit(self.endpoint).hostname or ""
        self.name = spec.container
        self.tried = f"failed to put a blob into container {spec.container} at {host}"
        account = "" if host.startswith(f"{spec.account}.") else f"/{spec.account}"
        self._folder = f"{account}/{spec.container}"
        self._account = spec.account
        self._environ = environ
        self._tokens = TokenSource()

    def is_own(self) -> bool:
        return is_azure_endpoint(self.endpoint)

    def select(self, values: Mapping[str, str], *, secret: str) -> dict[str, str]:
        if token := values.get(SAS):
            if not _SAS.fullmatch(token) or not _SIGNATURE.search(token):
                raise Refused(f"key {SAS} of Secret {secret} is not a SAS token: replace it")
            return {SAS: token}
        if key := values.get(KEY):
            try:
                base64.b64decode(key, validate=True)
            except ValueError as error:
                raise Refused(f"key {KEY} of Secret {secret} is not base64: replace it") from error
            return {KEY: key}
        raise SecretMissing(f"Secret {secret} has neither a key {SAS} nor {KEY}: add one")

    async def prepare(self, item: StoredObject, credentials: Mapping[str, str]) -> Upload:
        path = f"{self._folder}/{quote(item.key)}"
        headers = {
            "If-None-Match": "*",
            "x-ms-blob-type": "BlockBlob",
            "x-ms-date": formatdate(usegmt=True),
            "x-ms-version": _VERSION,
        }
        query = ""
        secrets: tuple[str, ...] = ()
        if SAS in credentials:
            query = f"?{credentials[SAS].lstrip('?')}"
            if found := _SIGNATURE.search(query):  # the part of it that is secret
                secrets = (found[1], unquote(found[1]))
        elif KEY in credentials:
            signed = _signature(item, path, headers, account=self._account, key=credentials[KEY])
            headers["Authorization"] = f"SharedKey {self._account}:{signed}"
        else:
            token = await self._tokens.get(own_token_request(self._environ))
            headers["Authorization"] = f"Bearer {token}"
            secrets = (token,)
        url = URL(f"{self.endpoint}{path}{query}", encoded=True)
        return Upload(url=url, headers=headers, secrets=secrets)

    def exists(self, answer: Answer) -> bool:
        return answer.status == _EXISTS or code(answer) in _EXISTS_CODES

    def invalidate(self) -> None:
        self._tokens.invalidate()

    async def close(self) -> None:
        await self._tokens.close()


def _signature(
    item: StoredObject, path: str, headers: Mapping[str, str], *, account: str, key: str
) -> str:
    """The signature of a request by the scheme SharedKey."""
    own = "".join(
        f"{name}:{value}\n" for name, value in sorted(headers.items()) if name.startswith("x-ms-")
    )
    lines = [
        "PUT",
        "",  # Content-Encoding
        "",  # Content-Language
        str(len(item.content) or ""),
        "",  # Content-MD5
        item.content_type,
        "",  # Date: x-ms-date
        "",  # If-Modified-Since
        "",  # If-Match
        headers["If-None-Match"],
        "",  # If-Unmodified-Since
        "",  # Range
        f"{own}/{account}{path}",
    ]
    digest = hmac.digest(base64.b64decode(key), "\n".join(lines).encode(), "sha256")
    return base64.b64encode(digest).decode()


def own_token_request(environ: Mapping[str, str]) -> TokenRequest:
    """Where the token of the operator's own identity comes from: Workload Identity, whose webhook
    sets the variables, or a managed identity of the node. Raises Refused."""
    client = environ.get("AZURE_CLIENT_ID", "")
    name = environ.get(TOKEN_FILE)
    if not name:
        query = {"api-version": "2018-02-01", "resource": _RESOURCE}
        if client:  # necessary where a node has several
            query["client_id"] = client
        return TokenRequest(
            url=f"{METADATA_SERVER}/metadata/identity/oauth2/token?{urlencode(query)}",
            headers={"Metadata": "true"},
        )
    try:
        assertion = Path(name).read_text(errors="replace").strip()
    except OSError as error:
        raise Refused(f"{TOKEN_FILE}: failed to read {name}: {error.strerror}") from error
    authority = environ.get("AZURE_AUTHORITY_HOST") or _PUBLIC_AUTHORITY
    body = {
        "grant_type": "client_credentials",
        "client_id": client,
        "scope": f"{_RESOURCE}.default",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": assertion,
    }
    tenant = quote(environ.get("AZURE_TENANT_ID", ""), safe="")
    return TokenRequest(
        method="POST",
        url=f"{authority.rstrip('/')}/{tenant}/oauth2/v2.0/token",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        body=urlencode(body).encode(),
        secrets=(assertion,),
    )
