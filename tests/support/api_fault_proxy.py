"""A proxy in front of the API server, which counts an operator's writes and injects faults.

It speaks TLS to the server, and plain HTTP or TLS to the operator. It passes bytes through as they
arrive, but holds a request back until it is complete, and reads its head.
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

from gpuid_operator.localcluster import LocalCluster
from tests.support.loop_thread import LoopThread

_READS = ("GET", "HEAD", "OPTIONS")


class Position(Enum):
    """When a trap runs its action."""

    BEFORE = auto()
    """Before the server receives the write; the proxy then drops it."""
    AFTER = auto()
    """After the server handled the write; the proxy then drops the answer."""
    MEANWHILE = auto()
    """Before the server receives the write; the proxy then passes on write and answer."""


@dataclass
class WriteTrap:
    """What to do at a future write that is `wanted`, after `skip` others that are."""

    skip: int
    position: Position
    action: Callable[[], None]
    wanted: Callable[[str], bool]
    triggered: threading.Event = field(default_factory=threading.Event)
    request: str = ""
    """Method and path of the write, once it arrived."""


@dataclass(frozen=True)
class Fault:
    """What becomes of one request."""

    name: str
    play: Callable[[asyncio.StreamWriter, bytes], Awaitable[bool]]
    """Gets the connection of the operator and the first bytes of the answer. Returns whether the
    rest of the answer follows."""
    is_before: bool = False
    """The server never receives the request; there are no bytes of an answer then."""
    drops: float = 0
    """How many of the following pieces of the answer never come: of a watch, each is an event."""

    def __str__(self) -> str:
        return self.name


def answers(status: str, *headers: str, before: bool = True) -> Fault:
    """The operator gets this answer, before the server did what was asked, or afterwards."""
    head = (f"HTTP/1.1 {status}", "Connection: close", "Content-Length: 0", *headers)

    async def play(writer: asyncio.StreamWriter, _: bytes) -> bool:
        writer.write("\r\n".join((*head, "", "")).encode())
        await writer.drain()
        writer.close()
        return False

    return Fault(f"{status} {'before' if before else 'after'}", play, is_before=before)


def closes(*, before: bool) -> Fault:
    """The connection ends before the server did what was asked, or without its answer."""

    async def play(_: asyncio.StreamWriter, __: bytes) -> bool:
        return False

    return Fault(f"closed {'before' if before else 'after'}", play, is_before=before)


def cuts() -> Fault:
    """The connection ends in the middle of the answer."""

    async def play(writer: asyncio.StreamWriter, data: bytes) -> bool:
        writer.write(data[: len(data) // 2])
        await writer.drain()
        writer.close()
        return False

    return Fault("cut body", play)


def delays(seconds: float) -> Fault:
    """The second half of the answer comes late."""

    async def play(writer: asyncio.StreamWriter, data: bytes) -> bool:
        writer.write(data[: len(data) // 2])
        await asyncio.sleep(seconds)
        writer.write(data[len(data) // 2 :])
        return True

    return Fault(f"late body, {seconds:g} s", play)


def skips(events: float = math.inf) -> Fault:
    """A watch opens, and so many of its events never come: without a number, it is silent."""

    async def play(writer: asyncio.StreamWriter, data: bytes) -> bool:
        head, separator, _ = data.partition(b"\r\n\r\n")
        writer.write(head + separator)
        return True

    return Fault(f"{events:g} events skipped", play, drops=events)


@dataclass(eq=False)
class _Connection:
    writer: asyncio.StreamWriter
    upstream: asyncio.StreamWriter
    request: str = ""
    """The request in progress; empty between two requests."""
    trap: WriteTrap | None = None
    fault: Fault | None = None


class ApiFaultProxy(LoopThread):
    """Use it as a context; an operator that uses `kubeconfig` connects through the proxy."""

    def __init__(self, cluster: LocalCluster, *, tls: bool = False) -> None:
        """`tls`: the operator, too, speaks TLS, with the certificate of the API server."""
        super().__init__("api-fault-proxy")
        self._cluster = cluster
        self._tls: ssl.SSLContext | None = None
        if tls:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            pki = cluster.directory / "pki"
            self._tls.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._trap: WriteTrap | None = None
        self._writes: list[str] = []
        self.servers = [cluster.server]
        """API servers of the cluster; new connections go to them in turn."""
        self._connected = count()
        self.edits: Callable[[str], str] = lambda line: line
        """Changes the first line of a request."""
        self.refuses: Callable[[str], str | None] = lambda _: None
        """Decides by the head of a request: None passes it on, a status line is the answer, and an
        empty string breaks the connection."""
        self.refused = 0
        """How many requests were refused."""
        self.requests: list[str] = []
        """Method and path of each request; clear it to count from 0 again."""
        self.fault_at: Callable[[int, str], Fault | None] = lambda *_: None
        """Decides by number and text of a request what becomes of it."""

    @property
    def kubeconfig(self) -> Path:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        config = json.loads(self._cluster.kubeconfig.read_text())
        target = config["clusters"][0]["cluster"]
        target["server"] = f"https://127.0.0.1:{port}"
        if self._tls is None:
            config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
        file = self._cluster.directory / f"proxy-{port}.kubeconfig"
        file.write_text(json.dumps(config))
        return file

    @property
    def writes(self) -> list[str]:
        """Method and path of each write so far, oldest first."""
        return list(self._writes)

    @property
    def is_quiet(self) -> bool:
        """True if no write is in progress."""
        return not any(
            one.request and not one.request.startswith(_READS) for one in self._snapshot()
        )

    @property
    def watches(self) -> int:
        """How many watches are open."""
        return sum("watch=true" in one.request for one in self._snapshot())

    def set_trap(
        self,
        skip: int,
        position: Position,
        action: Callable[[], None],
        *,
        wanted: Callable[[str], bool] = lambda _: True,
    ) -> WriteTrap:
        """Run `action` at a future write that is `wanted`, after `skip` others that are."""
        self._trap = WriteTrap(skip, position, action, wanted)
        return self._trap

    def clear_trap(self) -> None:
        """Remove the trap, unless it was triggered already."""
        self._trap = None

    def cut(self, wanted: Callable[[str], bool] = lambda _: True) -> int:
        """Break the connections whose request is `wanted`, and return their number."""
        return self._abort(one for one in self._snapshot() if one.request and wanted(one.request))

    def close_idle(self) -> int:
        """Close the connections without a request in progress, and return their number."""
        return self._abort(one for one in self._snapshot() if not one.request)

    def _abort(self, connections: Iterable[_Connection]) -> int:
        hit = list(connections)
        for one in hit:
            self._loop.call_soon_threadsafe(one.writer.transport.abort)
            self._loop.call_soon_threadsafe(one.upstream.transport.abort)
        return len(hit)

    def _snapshot(self) -> list[_Connection]:
        return list(self._connections)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, limit=1 << 20, ssl=self._tls
        )

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for one in self._snapshot():
            one.writer.transport.abort()
            one.upstream.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = ssl.create_default_context(cafile=str(self._cluster.ca_file))
        number = next(self._connected) % len(self.servers)
        address = urlsplit(self.servers[number])
        try:
            received, upstream = await asyncio.open_connection(
                address.hostname, address.port, ssl=tls
            )
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, upstream)
        self._connections.add(connection)
        answering = asyncio.create_task(self._answer(received, connection))
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._ask(reader, connection)
        upstream.transport.abort()
        await answering
        for one in (writer, upstream):
            with suppress(OSError):
                await one.wait_closed()
        self._connections.discard(connection)

    async def _ask(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        """Pass requests on, one after the other."""
        while True:
            line, rest = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)
            head = self.edits(line.decode("latin-1")).encode("latin-1") + b"\r\n" + rest
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (s.partition(":") for s in lines)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            connection.request = first.rpartition(" ")[0]
            self.requests.append(connection.request)
            fault = self.fault_at(len(self.requests) - 1, connection.request)
            if fault is not None and fault.is_before:
                await fault.play(connection.writer, b"")
                return
            connection.fault = fault
            refusal = self.refuses(head.decode("latin-1"))
            if refusal is not None:
                self.refused += 1
                if refusal:
                    answer = (f"HTTP/1.1 {refusal}", "Connection: close", "Content-Length: 0")
                    connection.writer.write("\r\n".join((*answer, "", "")).encode())
                    await connection.writer.drain()
                    connection.writer.close()
                return
            if not first.startswith(_READS):
                self._writes.append(connection.request)
                trap = self._due(connection.request)
                if trap and trap.position is Position.AFTER:
                    connection.trap = trap
                elif trap:
                    await self._trigger(trap)
                    if trap.position is Position.BEFORE:
                        return
            connection.upstream.write(head + body)
            if "upgrade" in headers:
                while data := await reader.read(65_536):
                    connection.upstream.write(data)
                return

    def _due(self, request: str) -> WriteTrap | None:
        trap = self._trap
        if trap is None or not trap.wanted(request):
            return None
        if trap.skip:
            trap.skip -= 1
            return None
        self._trap, trap.request = None, request
        return trap

    async def _trigger(self, trap: WriteTrap) -> None:
        await asyncio.to_thread(trap.action)
        trap.triggered.set()

    async def _answer(self, received: asyncio.StreamReader, connection: _Connection) -> None:
        with suppress(OSError):
            while data := await received.read(65_536):
                if connection.trap is not None:
                    await self._trigger(connection.trap)
                    break
                fault, connection.fault = connection.fault, None
                if fault is not None and not await fault.play(connection.writer, data):
                    break
                if "watch=true" not in connection.request:
                    connection.request = ""
                if fault is None:
                    connection.writer.write(data)
                    continue
                dropped = 0
                while dropped < fault.drops and await received.read(65_536):
                    dropped += 1
        connection.writer.transport.abort()
