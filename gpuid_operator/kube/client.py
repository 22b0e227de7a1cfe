"""Requests to the Kubernetes API: JSON in, JSON out, at most QPS of them per second.

One aiohttp session and one TLS context for everything; no model classes, since an object is a dict
on its way to or from a model of ours. Execs share neither the rate limit (WORKERS bounds them) nor
the connection pool (each consumes its connection).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from gpuid_operator import __version__
from gpuid_operator.kube.api_errors import api_error, unreachable
from gpuid_operator.kube.credentials import Credentials, FreshCredentials, find_source
from gpuid_operator.kube.errors import (
    ApiError,
    ApiUnreachable,
    Gone,
    ListExpired,
    ServerError,
    TooManyRequests,
    Unauthorized,
)
from gpuid_operator.kube.ratelimit import TokenBucket
from gpuid_operator.kube.websocket import WebSockets

MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
"""Server-side apply; JSON is YAML."""

ONLY_METADATA: Final = (
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
)
"""Accept header for an answer without spec and status; servers that cannot send the object."""

MAX_CONNECTIONS: Final = 64
"""Connections for requests; a TLS handshake costs more than waiting for a free one."""

_RETRY_PAUSES: Final = (0.1, 0.5, 1.0)
"""Seconds before each further attempt where the server does not say how long to wait."""
_LONGEST_RETRY_AFTER: Final = 10.0
_JSON: Final = "application/json"


def item(collection: str, name: str) -> str:
    """The path of one object of a collection; the name may come from a user."""
    return f"{collection}/{quote(name, safe='')}"


class KubeClient:
    """One API server under one identity. Close it with `close` or `async with`."""

    def __init__(self, credentials: FreshCredentials, *, qps: float, burst: int) -> None:
        self._credentials = credentials
        self._limit = TokenBucket(qps=qps, burst=burst)
        headers = {
            "User-Agent": f"gpuid-operator/{__version__}",
            # Compressing a list of nodes costs both sides more than sending it.
            "Accept-Encoding": "identity",
        }
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=60),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),
        )
        self.websockets = WebSockets(credentials, headers=headers)

    @classmethod
    async def connect(
        cls,
        *,
        qps: float,
        burst: int,
        kubeconfig: Path | None = None,
        context: str | None = None,
    ) -> Self:
        """Find the cluster and read the credentials; nothing is sent yet.

        The kubeconfig given, else KUBECONFIG, else the pod's service account, else ~/.kube/config.
        Raises NoCluster.
        """
        credentials = FreshCredentials(find_source(kubeconfig=kubeconfig, context=context))
        await credentials.get()
        return cls(credentials, qps=qps, burst=burst)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        await self._session.close()
        await self.websockets.close()

    async def credentials(self) -> Credentials:
        """The credentials of the moment, renewed where they are due, for another client's use."""
        return (await self._credentials.get())[0]

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str | None = None,
        accept: str | None = None,
        timeout: float = 30.0,
        limited: bool = True,
    ) -> Any:
        """Send one request and give the parsed JSON of the answer.

        `path` is absolute and already quoted. `timeout` bounds, in seconds, all attempts together
        from the moment that the rate limit lets the request go. Repeated are: what the server
        refused with 429 or with 401 and renewed credentials, what never reached it, and a GET that
        got 5xx or lost its connection. A write whose answer is lost is not repeated.

        Raises ApiError by status, ApiUnreachable.
        """
        if limited:
            await self._limit.acquire()
        data = None if body is None else orjson.dumps(body)
        headers = {"Accept": accept or _JSON}
        if data is not None:
            headers["Content-Type"] = content_type or _JSON
        until = time.monotonic() + timeout
        target = f"{path}?{urlencode(params)}" if params else path
        tries = 0
        while True:
            credentials, tls = await self._credentials.get()
            left = until - time.monotonic()
            try:
                async with (
                    asyncio.timeout(left),
                    self._session.request(
                        method,
                        URL(credentials.server + target, encoded=True),
                        data=data,
                        headers={**headers, **self._credentials.headers},
                        ssl=tls,
                        server_hostname=credentials.server_name,
                        proxy=credentials.proxy,
                        allow_redirects=False,
                    ) as response,
                ):
                    answer = await response.read()
                    if response.status < 300:
                        return orjson.loads(answer) if answer else None
                    error: ApiError | ApiUnreachable = api_error(
                        method=method, path=path, response=response, answer=answer
                    )
            except TimeoutError:
                raise ApiUnreachable(
                    f"{method} {path}: {credentials.server} did not answer within {timeout:g} s;"
                    " is the API server overloaded or cut off?"
                ) from None
            except orjson.JSONDecodeError as wrong:
                raise ApiUnreachable(
                    f"{method} {path}: {credentials.server} answered with something other than"
                    f" JSON ({wrong}); is it an API server, or a proxy before it?"
                ) from None
            except (aiohttp.ClientError, OSError) as lost:
                error = unreachable(method=method, path=path, credentials=credentials, error=lost)
                again = method == "GET" or isinstance(lost, aiohttp.ClientConnectorError)
                certificate = isinstance(lost, aiohttp.ClientConnectorCertificateError)
                if not again or certificate:
                    raise error from lost
            else:
                if isinstance(error, Unauthorized):
                    if tries == 0 and await self._credentials.renew_rejected(credentials):
                        tries += 1
                        continue
                    raise error
                if not _retryable(error, method):
                    raise error
            if tries == len(_RETRY_PAUSES):
                raise error
            pause = _pause(error, tries)
            if time.monotonic() + pause >= until:
                raise error
            await asyncio.sleep(pause)
            tries += 1

    async def pages(
        self, path: str, *, params: Mapping[str, str] | None = None, limit: int = 500
    ) -> AsyncIterator[dict[str, Any]]:
        """List in pages of at most `limit` objects: each page's parsed body, all of one snapshot.

        Raises ListExpired when the server dropped the snapshot between two pages (after some five
        minutes): what came until then is no full list, so begin again. And as `request`.
        """
        query = {**(params or {}), "limit": str(limit)}
        while True:
            try:
                page = await self.request("GET", path, params=query, timeout=60.0)
            except Gone as error:
                raise ListExpired(f"{error.message}; the list begins again") from error
            yield page
            token = page.get("metadata", {}).get("continue")
            if not token:
                return
            query["continue"] = token

    async def lines(
        self, path: str, *, params: Mapping[str, str], accept: str, silence: float
    ) -> AsyncIterator[bytes]:
        """Stream the lines of an answer until the server ends it in good order.

        `silence` is the longest pause between two pieces of it, in seconds. Raises ApiError when it
        is refused, ApiUnreachable when it breaks off or falls silent.
        """
        await self._limit.acquire()
        credentials, tls = await self._credentials.get()
        rest = b""
        try:
            async with self._session.get(
                URL(f"{credentials.server}{path}?{urlencode(params)}", encoded=True),
                headers={"Accept": accept, **self._credentials.headers},
                ssl=tls,
                server_hostname=credentials.server_name,
                proxy=credentials.proxy,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(connect=30.0, sock_read=silence),
            ) as response:
                if response.status >= 300:
                    answer = await response.read()
                    error = api_error(method="GET", path=path, response=response, answer=answer)
                    if isinstance(error, Unauthorized):
                        await self._credentials.renew_rejected(credentials)
                    raise error
                async for piece in response.content.iter_any():
                    *whole, rest = (rest + piece).split(b"\n")
                    for line in whole:
                        yield line
        except TimeoutError:
            raise ApiUnreachable(
                f"GET {path}: {credentials.server} was silent for {silence:g} s"
            ) from None
        except (aiohttp.ClientError, OSError) as lost:
            raise unreachable(
                method="GET", path=path, credentials=credentials, error=lost
            ) from lost


def _retryable(error: ApiError | ApiUnreachable, method: str) -> bool:
    return isinstance(error, TooManyRequests) or (
        method == "GET" and isinstance(error, ServerError)
    )


def _pause(error: ApiError | ApiUnreachable, tries: int) -> float:
    asked = error.retry_after if isinstance(error, ApiError) else None
    return _RETRY_PAUSES[tries] if asked is None else min(asked, _LONGEST_RETRY_AFTER)
