"""A client's TLS that resumes its sessions.

An exec consumes its connection, so that reading a fleet takes a handshake per node. A resumed one
needs no certificate and no signature, which spares both sides a good part of its cost.
"""

from __future__ import annotations

import ssl

import aiohttp


class ResumingContext(ssl.SSLContext):
    """A context for clients whose connections resume the sessions that `remember` was given.

    asyncio takes no session for a connection, but asks the context to wrap it. A server that does
    not know a session any more, or never gave one that lasts, makes a full handshake instead.
    """

    def __new__(cls) -> ResumingContext:
        """A context that verifies certificates and names, with no authority to trust yet."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self) -> None:
        super().__init__()
        self._sessions: dict[str | bytes | None, ssl.SSLSession] = {}

    def remember(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Keep the session of an open socket that has been read from; sooner, TLS 1.3 has none."""
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
        """As the library does it, with the session remembered for that host."""
        return super().wrap_bio(
            incoming,
            outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
            session=session or self._sessions.get(server_hostname),
        )
