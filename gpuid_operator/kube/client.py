"""A client for the Kubernetes API: sends and receives JSON, at most QPS requests per second.

One TLS context and one pool of connections serve all requests, except those of leader election,
which have connections of their own. Objects are dicts; our own models read what they need. Execs
use neither the rate limit (WORKERS bounds them) nor the connection pool (each consumes one).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from gpuid_operator import __version__
from gpuid_operator.kube.api_errors import api_error, is_retryable, unreachable
from gpuid_operator.kube.credentials import Credentials, FreshCredentials, find_source
from gpuid_operator.kube.errors import (
    ApiError,
    ApiUnreachable,
    Unauthorized,
)
from gpuid_operator.kube.in_flight import InFlight
from gpuid_operator.kube.ratelimit import TokenBucket
from gpuid_operator.kube.server_clock import ServerClock
from gpuid_operator.kube.websocket import WebSockets

MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
"""Server-side apply; JSON is YAML."""

ONLY_METADATA: Final = (
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
)
"""Accept header for objects without spec and status; servers without support send all of it."""
ONLY_METADATA_LIST: Final = ONLY_METADATA.replace("Metadata;", "MetadataList;")
"""The same for a list, for which the other one is refused (406)."""

MAX_CONNECTIONS: Final = 64
"""Maximum number of connections; a TLS handshake costs more than waiting for a free connection."""

_ANSWERED_WITHIN: Final = 0.015
"""Seconds in which an API server that is not busy answers."""
_FEWEST_AT_ONCE: Final = 3
"""Two writes list a new node: with three at once, a server that answers within 35 ms does them as
fast as 64 execs of 1.5 s each bring nodes."""

_UNLIMITED_CONNECTIONS: Final = 2
"""Maximum number of connections for requests that the rate limit does not apply to. Leader election
sends one at a time; a request that timed out may still hold its connection for a moment."""

_RETRY_PAUSES: Final = (0.1, 0.5, 1.0)
"""Seconds before each retry if the server sends no Retry-After."""
_LONGEST_RETRY_AFTER: Final = 10.0
_JSON: Final = "application/json"


def item(collection: str, name: str) -> str:
    """The path of an object in a collection; quotes the name, which may come from a user."""
    return f"{collection}/{quote(name, safe='')}"


def at_once(qps: float) -> int:
    """How many requests are sent at once, and how many execs are opened at once: as many as are
    under way at `qps` requests per second while the server is not busy. A busy one would do no more
    of them sooner, and other clients would wait longer."""
    return min(MAX_CONNECTIONS, max(_FEWEST_AT_ONCE, round(qps * _ANSWERED_WITHIN)))


class KubeClient:
    """A client for one API server with one identity. Close it with `close` or `async with`."""

    def __init__(self, credentials: FreshCredentials, *, qps: float, burst: int) -> None:
        self._credentials = credentials
        self._limit = TokenBucket(qps=qps, burst=burst)
        self.in_flight = InFlight(places=at_once(qps))
        headers = {
            "User-Agent": f"gpuid-operator/{__version__}",
            # Compressing a list of nodes costs both sides more than sending it uncompressed.
            "Accept-Encoding": "identity",
        }
        self._session = _session(headers, connections=MAX_CONNECTIONS)
        self._unlimited = _session(headers, connections=_UNLIMITED_CONNECTIONS)
        self.websockets = WebSockets(credentials, headers=headers, openings=at_once(qps))
        self._server_clock = ServerClock()

    @classmethod
    async def connect(
        cls,
        *,
        qps: float,
        burst: int,
        kubeconfig: Path | None = None,
        context: str | None = None,
    ) -> Self:
        """Find the cluster and read the credentials, without sending a request.

        Uses `kubeconfig`, KUBECONFIG, the service account of the pod, or ~/.kube/config, in this
        order. Raises NoCluster.
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
        """Close all connections."""
        await self._session.close()
        await self._unlimited.close()
        await self.websockets.close()

    @property
    def server_time(self) -> datetime | None:
        """The API server's clock, as its newest response shows it; see ServerClock."""
        return self._server_clock.now()

    async def credentials(self) -> Credentials:
        """The current credentials, renewed if due, for use by another client."""
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
        """Send a request and return the parsed JSON of the response.

        `path` is absolute and quoted. `timeout` limits all attempts together, in seconds, and
        starts when the rate limit admits the request and few enough others are on their way. A
        request that is not `limited` waits for neither, nor for a connection that others use.

        Retries after 429, after 401 with renewed credentials, and if no connection was established;
        a GET also after 5xx or a lost connection. A write whose response is lost is not retried.

        Raises ApiError by status, ApiUnreachable.
        """
        data = None if body is None else orjson.dumps(body)
        headers = {"Accept": accept or _JSON}
        if data is not None:
            headers["Content-Type"] = content_type or _JSON
        target = f"{path}?{urlencode(params)}" if params else path
        if not limited:
            return await self._send(self._unlimited, method, path, target, data, headers, timeout)
        await self._limit.acquire()
        async with self.in_flight.place():
            return await self._send(self._session, method, path, target, data, headers, timeout)

    async def _send(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        target: str,
        data: bytes | None,
        headers: Mapping[str, str],
        timeout: float,
    ) -> Any:
        """Send a request with its retries; `target` is `path` with its query."""
        until = time.monotonic() + timeout
        tries = 0
        while True:
            credentials, tls = await self._credentials.get()
            left = until - time.monotonic()
            try:
                async with (
                    asyncio.timeout(left),
                    session.request(
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
                        self._server_clock.take(response.headers.get("Date"))
                        return orjson.loads(answer) if answer else None
                    error: ApiError | ApiUnreachable = api_error(
                        method=method, path=path, response=response, answer=answer
                    )
            except TimeoutError:
                raise ApiUnreachable(
                    f"{method} {path}: no response from {credentials.server} within {timeout:g} s;"
                    " check whether the API server is overloaded or unreachable"
                ) from None
            except orjson.JSONDecodeError as wrong:
                raise ApiUnreachable(
                    f"{method} {path}: the response of {credentials.server} is not JSON ({wrong});"
                    " check that it is an API server and not a proxy"
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
                if not is_retryable(error, method):
                    raise error
            if tries == len(_RETRY_PAUSES):
                raise error
            pause = _pause(error, tries)
            if time.monotonic() + pause >= until:
                raise error
            await asyncio.sleep(pause)
            tries += 1

    async def lines(
        self, path: str, *, params: Mapping[str, str], accept: str, silence: float
    ) -> AsyncIterator[bytes]:
        """Stream the lines of a response until the server ends it regularly.

        `silence` is the maximum time without data, in seconds. Raises ApiError if the server
        rejects the request, ApiUnreachable if the stream is interrupted or silent for too long.
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
                f"GET {path}: no data from {credentials.server} for {silence:g} s"
            ) from None
        except (aiohttp.ClientError, OSError) as lost:
            raise unreachable(
                method="GET", path=path, credentials=credentials, error=lost
            ) from lost


def _session(headers: Mapping[str, str], *, connections: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=60),
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),
    )


def _pause(error: ApiError | ApiUnreachable, tries: int) -> float:
    asked = error.retry_after if isinstance(error, ApiError) else None
    return _RETRY_PAUSES[tries] if asked is None else min(asked, _LONGEST_RETRY_AFTER)
