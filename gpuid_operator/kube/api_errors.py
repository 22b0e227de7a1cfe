"""Converts responses of the API server, and failed connections, into errors."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import aiohttp
import orjson

from gpuid_operator.kube.credentials import Credentials
from gpuid_operator.kube.errors import (
    AlreadyExists,
    ApiError,
    ApiUnreachable,
    Conflict,
    FieldUnknown,
    Forbidden,
    Gone,
    Invalid,
    ListExpired,
    NotFound,
    ServerError,
    TooManyRequests,
    Unauthorized,
)

_BY_STATUS: Final[dict[int, type[ApiError]]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}

_WHAT_TO_DO: Final[dict[type[ApiError], str]] = {
    Unauthorized: "renew the credentials (kubeconfig, exec plugin, service account token)",
    Forbidden: "grant this permission: docs/install.md has the list under Permissions",
    Conflict: "read the object again and retry",
    FieldUnknown: "install the CRDs of this version of the operator",
    TooManyRequests: "lower QPS, or give the operator a higher priority level on the API server",
    ServerError: "check the log of the API server",
}


def api_error(
    *, method: str, path: str, response: aiohttp.ClientResponse, answer: bytes
) -> ApiError:
    """The error for a status above 299; `answer` is the body of the response, usually a Status."""
    body: Any
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError:
        body = answer[:512].decode("utf-8", "replace").strip()
    if not isinstance(body, dict):
        body = {"message": body}
    status = response.status
    reason = str(body.get("reason") or "")
    said = str(body.get("message") or "")[:1024]
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else ApiError)
    if reason == "AlreadyExists":
        kind = AlreadyExists
    elif "field not declared in schema" in said:
        # The API server calls it an internal error, but it lasts until the CRD is upgraded.
        kind = FieldUnknown
    message = f"{method} {path}: the API server answered {status} {reason or response.reason or ''}"
    if said:
        message += f": {said}"
    if todo := _WHAT_TO_DO.get(kind):
        message += f" ({todo})"
    error = kind(message, status=status, reason=reason, server_message=said)
    with suppress(KeyError, ValueError):
        error.retry_after = float(response.headers["Retry-After"])
    return error


def is_retryable(error: ApiError | ApiUnreachable, method: str) -> bool:
    """Whether the client sends a request again that the server answered with this error."""
    return isinstance(error, TooManyRequests) or (
        method == "GET" and isinstance(error, ServerError)
    )


def check_list_version(path: str, page: Mapping[str, Any], *, since: str) -> None:
    """Raise ListExpired for a page of a list that is older than the resourceVersion `since` of an
    object that is known: such a list does not show that what it lacks is gone."""
    version = str(page.get("metadata", {}).get("resourceVersion", ""))
    if version.isdigit() and since.isdigit() and int(version) < int(since):
        raise ListExpired(
            f"GET {path}: the list has version {version}, but version {since} is known; if etcd was"
            " restored from a backup, restart the operator"
        )


def unreachable(
    *, method: str, path: str, credentials: Credentials, error: Exception
) -> ApiUnreachable:
    """The error for a connection that failed or was interrupted."""
    said = str(error) or type(error).__name__
    match error:
        case aiohttp.ClientConnectorCertificateError():
            said = str(error.certificate_error)
            todo = "check the CA in the kubeconfig: it does not match this server"
        case aiohttp.ClientConnectorSSLError():
            said = str(error.os_error)
            todo = "TLS handshake failed: check the server's address in the kubeconfig"
        case aiohttp.ClientConnectorDNSError():
            said = str(error.os_error)
            todo = "host name not found: check the server's address in the kubeconfig"
        case aiohttp.ClientConnectorError():
            said = str(error.os_error)
            todo = "check that the API server is running"
        case aiohttp.ClientResponseError():
            # The text of the error quotes the address of a proxy, which may contain a password.
            said = f"{error.status} {error.message}"
            todo = "check the proxy between the operator and the API server"
        case _:
            todo = "the connection was interrupted"
    return ApiUnreachable(
        f"{method} {path}: no answer from the API server {credentials.server}: {said} ({todo})"
    )
