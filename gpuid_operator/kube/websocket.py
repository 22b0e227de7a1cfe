"""WebSockets to the API server, with the server's own message if it rejects one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from gpuid_operator.kube.api_errors import api_error, unreachable
from gpuid_operator.kube.credentials import Credentials, FreshCredentials
from gpuid_operator.kube.in_flight import InFlight
from gpuid_operator.kube.tls import ResumingContext

_HEARTBEAT: Final = 20.0
"""Seconds between pings; a missing pong is detected after half of that."""


class WebSockets:
    """Opens WebSockets, outside of the pool for requests because each consumes its connection."""

    def __init__(
        self, credentials: FreshCredentials, *, headers: Mapping[str, str], openings: int
    ) -> None:
        """`openings` is how many are opened at once. An exec that only waits for its command costs
        the API server nothing, but its opening takes a TLS handshake and a connection to the
        kubelet, and API Priority and Fairness does not count it."""
        self._credentials = credentials
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),
            middlewares=(_refusal_with_its_body,),
        )
        self.openings = InFlight(places=openings)
        """For callers of `open`: a place until the WebSocket is open."""

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    @asynccontextmanager
    async def open(
        self,
        path: str,
        *,
        params: Sequence[tuple[str, str]],
        protocols: tuple[str, ...],
        max_message: int,
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A WebSocket for a block; at its end the connection is closed at once.

        `max_message` is in bytes. Sets no timeout: wrap the block in one. Raises ApiError if the
        server rejects the handshake, and ApiUnreachable.
        """
        target = f"{path}?{urlencode(params)}"
        credentials, tls = await self._credentials.get()
        try:
            try:
                socket = await self._open(target, credentials, tls, protocols, max_message)
            except _RefusedError as refused:
                if refused.response.status != 401 or not await self._credentials.renew_rejected(
                    credentials
                ):
                    raise
                credentials, tls = await self._credentials.get()
                socket = await self._open(target, credentials, tls, protocols, max_message)
        except _RefusedError as refused:
            raise api_error(
                method="GET", path=path, response=refused.response, answer=refused.body
            ) from None
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as lost:
            raise unreachable(
                method="GET", path=path, credentials=credentials, error=lost
            ) from lost
        try:
            yield socket
        finally:
            if not socket.closed:
                if isinstance(tls, ResumingContext):
                    tls.remember(socket)
                await _cut(socket)

    async def _open(
        self,
        target: str,
        credentials: Credentials,
        tls: ResumingContext | bool,
        protocols: tuple[str, ...],
        max_message: int,
    ) -> aiohttp.ClientWebSocketResponse:
        return await self._session.ws_connect(
            URL(credentials.server + target, encoded=True),
            protocols=protocols,
            headers=self._credentials.headers,
            ssl=tls,
            server_hostname=credentials.server_name,
            proxy=credentials.proxy,
            heartbeat=_HEARTBEAT,
            max_msg_size=max_message,
            compress=0,
        )


class _RefusedError(Exception):
    """A handshake with another status than 101."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        super().__init__(response.status)
        self.response = response
        self.body = body


async def _refusal_with_its_body(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep the body of a rejected handshake, which has the reason and which ws_connect discards."""
    response = await handler(request)
    if response.status == 101:
        return response
    body = await response.content.read(65_536)
    response.close()
    raise _RefusedError(response, body)


async def _cut(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Close a socket at once: `close` alone would wait for a peer that hangs or floods it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            await socket.close()
