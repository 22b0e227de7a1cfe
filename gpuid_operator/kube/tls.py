"""TLS with session resumption and small buffers for clients.

An exec consumes its connection, so each read of a node needs a TLS handshake. A resumed session
needs no certificate and no signature, which saves both sides a good part of the cost.
"""

from __future__ import annotations

import ssl
from asyncio import sslproto
from typing import Final

import aiohttp

READ_BUFFER: Final = 32 * 1024
"""Bytes of TLS records that a connection reads at once. A record has at most 16 KB."""


def limit_read_buffers() -> None:
    """Give each TLS connection of this process a read buffer of READ_BUFFER bytes.

    asyncio gives it 256 KB, fills it with zeros, and allocates as much again for each read. With
    the execs of a cold start these are 15 MB.
    """
    sslproto.SSLProtocol.max_size = READ_BUFFER


class ResumingContext(ssl.SSLContext):
    """A client context whose connections resume the sessions of sockets passed to `remember`.

    asyncio has no parameter for a session, but asks the context to wrap each connection. If the
    server does not know the session, it makes a full handshake.
    """

    def __new__(cls) -> ResumingContext:
        """A context that verifies certificates and names, without trusted authorities yet."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self) -> None:
        super().__init__()
        self._sessions: dict[str | bytes | None, ssl.SSLSession] = {}

    def remember(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Keep the session of an open socket. TLS 1.3 has a session only after the first read."""
        connection: ssl.SSLObject | None = socket.get_extra_info("ssl_object")
        if connection is None or connection.session_reused:
            return
        session = connection.session
        if session is not None and session.has_ticket:
            self._sessions[connection.server_hostname] = session

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Wrap a connection as the base class does, with the remembered session of that host."""
        return super().wrap_bio(
            incoming,
            outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
            session=session or self._sessions.get(server_hostname),
        )
