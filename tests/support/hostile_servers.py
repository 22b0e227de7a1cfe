"""Servers that try to exhaust their client: they send far more than a client should read."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from itertools import repeat
from types import TracebackType
from typing import Final, Self

MIB: Final = 1024 * 1024
FLOOD: Final = 128 * MIB
"""What a flood sends, if the client lets it."""


class Peer:
    """The server's end of one connection."""

    def __init__(self, server: HostileServer, connection: socket.socket) -> None:
        self._server = server
        self._connection = connection
        self._received = b""

    def read_until(self, pattern: bytes) -> bytes:
        """What the client sent up to the pattern. Raises OSError if the client is gone."""
        while pattern not in self._received:
            data = self._connection.recv(65_536)
            if not data:
                raise ConnectionResetError
            self._received += data
        before, _, self._received = self._received.partition(pattern)
        return before

    def read_exactly(self, size: int) -> bytes:
        """The next bytes that the client sends. Raises OSError if the client is gone."""
        while len(self._received) < size:
            data = self._connection.recv(65_536)
            if not data:
                raise ConnectionResetError
            self._received += data
        data, self._received = self._received[:size], self._received[size:]
        return data

    def read_rest(self) -> bytes:
        """What the client has sent since, and has left unread."""
        data, self._received = self._received, b""
        return data

    def send(self, *parts: bytes) -> None:
        """Send all of it. Raises OSError if the client is gone."""
        data = memoryview(b"".join(parts))
        while data:
            sent = self._connection.send(data)
            self._server.sent += sent
            data = data[sent:]

    def start_tls(self, context: ssl.SSLContext) -> None:
        self._connection = context.wrap_socket(self._connection, server_side=True)

    def close(self) -> None:
        self._connection.close()

    def flood(self, piece: bytes) -> None:
        """Repeat the piece until FLOOD bytes are sent."""
        count = max(1, MIB // len(piece))
        for many in repeat(piece * count, FLOOD // (len(piece) * count)):
            self.send(many)


Behaviour = Callable[[Peer], None]


class HostileServer:
    """Runs a behaviour for each connection and counts the bytes that it could send. Use it as an
    asynchronous context; afterwards every connection has ended."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.sent = 0
        self._behaviour = behaviour
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]

    async def __aenter__(self) -> Self:
        self._threads[0].start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:  # the client closes its connections in the event loop
            await asyncio.to_thread(thread.join)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with closing(Peer(self, connection)) as peer, suppress(OSError):
            self._behaviour(peer)


def over_tls(behaviour: Behaviour, context: ssl.SSLContext, *, request: bytes = b"") -> Behaviour:
    """The behaviour over TLS. PostgreSQL begins with a `request` for it, and gets an S."""

    def answer(peer: Peer) -> None:
        if request:
            peer.read_until(request)
            peer.send(b"S")
        peer.start_tls(context)
        behaviour(peer)

    return answer


def http(*head: bytes, flood: bytes) -> Behaviour:
    """Answers a request with these parts, and then with the flood."""

    def answer(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(*head)
        peer.flood(flood)

    return answer


def message(kind: bytes, content: bytes = b"", *, length: int | None = None) -> bytes:
    """A message of PostgreSQL; `length` is that of a content which follows."""
    return kind + struct.pack("!i", 4 + (len(content) if length is None else length)) + content


SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)
STARTUP_END: Final = b"application_name\0gpuid-operator\0\0"
READY: Final = message(b"Z", b"I")
LOGIN: Final = (
    message(b"R", struct.pack("!i", 0)),
    message(b"S", b"server_version\x0015.1\x00"),
    message(b"S", b"client_encoding\0UTF8\0"),
    message(b"K", struct.pack("!ii", 1, 1)),
    READY,
)


def postgres_before_login(*head: bytes, flood: bytes) -> Behaviour:
    """Answers the startup message with these parts, and then with the flood."""

    def answer(peer: Peer) -> None:
        peer.read_until(STARTUP_END)
        peer.send(*head)
        peer.flood(flood)

    return answer


def postgres_after_login(
    statements: Iterable[tuple[bytes, bytes]], *head: bytes, flood: bytes
) -> Behaviour:
    """Accepts the login, answers each statement as given, and the next one with the flood."""

    def answer(peer: Peer) -> None:
        peer.read_until(STARTUP_END)
        peer.send(*LOGIN)
        for statement, reply in statements:
            peer.read_until(statement)
            peer.send(reply)
        peer.read_until(b"\0")
        peer.send(*head)
        peer.flood(flood)

    return answer


def postgres_scram(iterations: bytes) -> Behaviour:
    """Demands a password by SCRAM, with a key of this many iterations."""

    def answer(peer: Peer) -> None:
        peer.read_until(STARTUP_END)
        peer.send(message(b"R", struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0"))
        peer.read_until(b"r=")
        nonce = peer.read_rest()
        first = b"r=%sxyz,s=c2FsdA==,i=%s" % (nonce, iterations)
        peer.send(message(b"R", struct.pack("!i", 11) + first))
        peer.read_until(b"p=")

    return answer


Reply = bytes | Callable[[bytes], bytes]


def kafka_response(number: int, content: bytes) -> bytes:
    """The response of a Kafka broker to the request of this number."""
    return struct.pack("!ii", 4 + len(content), number) + content


def kafka(*replies: Reply, flood: bytes) -> Behaviour:
    """Answers requests with the content of these responses, and the next one with the flood. A
    reply may depend on its request."""

    def answer(peer: Peer) -> None:
        for number, reply in enumerate(replies, 1):
            request = _kafka_request(peer)
            peer.send(kafka_response(number, reply(request) if callable(reply) else reply))
        _kafka_request(peer)
        peer.flood(flood)

    return answer


def _kafka_request(peer: Peer) -> bytes:
    (length,) = struct.unpack("!i", peer.read_exactly(4))
    return peer.read_exactly(length)
