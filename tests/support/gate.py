"""A door before the API server: it counts an operator's writes, and can do something at one.

Plain HTTP towards the operator, TLS towards the server. It passes bytes through as they come; of a
request it reads the head, and keeps it back until it is there as a whole.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from gpuid_operator.localcluster import LocalCluster

_READS = ("GET", "HEAD", "OPTIONS")


class Position(Enum):
    """When something is done about a write."""

    BEFORE = auto()
    """The server has not seen it, and never will."""
    AFTER = auto()
    """The server has done it, and its answer goes nowhere."""
    MEANWHILE = auto()
    """The server sees it after what is done, and its answer comes."""


@dataclass
class Ambush:
    """What to do at a write that is still to come: after `skip` others."""

    skip: int
    position: Position
    action: Callable[[], None]
    struck: threading.Event = field(default_factory=threading.Event)
    what: str = ""
    """Method and path of the write, once it came."""


@dataclass(eq=False)
class _Connection:
    writer: asyncio.StreamWriter
    upstream: asyncio.StreamWriter
    request: str = ""
    """The request that is under way, empty between two."""
    ambush: Ambush | None = None


class Gate:
    """Open as a context; `kubeconfig` leads an operator through it."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate")
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._ambush: Ambush | None = None
        self._writes: list[str] = []
        self.refuses: Callable[[str], str | None] = lambda _: None
        """What comes of a request, given by its head, that is not let through: the status of an
        answer, or empty for a broken connection."""
        self.asked = 0
        """Requests that were refused."""

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def kubeconfig(self) -> Path:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        config = json.loads(self._cluster.kubeconfig.read_text())
        config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
        file = self._cluster.directory / f"gate-{port}.kubeconfig"
        file.write_text(json.dumps(config))
        return file

    @property
    def writes(self) -> list[str]:
        """Method and path of each write so far, oldest first."""
        return list(self._writes)

    @property
    def is_quiet(self) -> bool:
        """No write is under way."""
        return not any(one.request and not one.request.startswith(_READS) for one in self._copy())

    @property
    def watches(self) -> int:
        """Watches that are under way."""
        return sum("watch=true" in one.request for one in self._copy())

    def lay(self, skip: int, position: Position, action: Callable[[], None]) -> Ambush:
        """Do something at a write that is still to come."""
        self._ambush = Ambush(skip, position, action)
        return self._ambush

    def lift(self) -> None:
        """Give up the ambush that was laid, if it did not strike yet."""
        self._ambush = None

    def cut(self, wanted: Callable[[str], bool] = lambda _: True) -> int:
        """Break the connections whose request is `wanted`; how many there were."""
        hit = [one for one in self._copy() if one.request and wanted(one.request)]
        for one in hit:
            self._loop.call_soon_threadsafe(one.writer.transport.abort)
            self._loop.call_soon_threadsafe(one.upstream.transport.abort)
        return len(hit)

    def _copy(self) -> list[_Connection]:
        return list(self._connections)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for one in self._copy():
            one.writer.transport.abort()
            one.upstream.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = ssl.create_default_context(cafile=str(self._cluster.ca_file))
        address = urlsplit(self._cluster.server)
        try:
            answers, upstream = await asyncio.open_connection(
                address.hostname, address.port, ssl=tls
            )
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, upstream)
        self._connections.add(connection)
        answering = asyncio.create_task(self._answer(answers, connection))
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._ask(reader, connection)
        upstream.transport.abort()
        await answering
        for one in (writer, upstream):
            with suppress(OSError):
                await one.wait_closed()
        self._connections.discard(connection)

    async def _ask(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        """Pass on one request after the other."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (s.partition(":") for s in lines)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            connection.request = first.rpartition(" ")[0]
            refusal = self.refuses(head.decode("latin-1"))
            if refusal is not None:
                self.asked += 1
                if refusal:
                    answer = (f"HTTP/1.1 {refusal}", "Connection: close", "Content-Length: 0")
                    connection.writer.write("\r\n".join((*answer, "", "")).encode())
                    await connection.writer.drain()
                    connection.writer.close()
                return
            if not first.startswith(_READS):
                self._writes.append(connection.request)
                ambush = self._due(connection.request)
                if ambush and ambush.position is Position.AFTER:
                    connection.ambush = ambush
                elif ambush:
                    await self._strike(ambush)
                    if ambush.position is Position.BEFORE:
                        return
            connection.upstream.write(head + body)
            if "upgrade" in headers:
                while data := await reader.read(65_536):
                    connection.upstream.write(data)
                return

    def _due(self, request: str) -> Ambush | None:
        ambush = self._ambush
        if ambush is None:
            return None
        if ambush.skip:
            ambush.skip -= 1
            return None
        self._ambush, ambush.what = None, request
        return ambush

    async def _strike(self, ambush: Ambush) -> None:
        await asyncio.to_thread(ambush.action)
        ambush.struck.set()

    async def _answer(self, answers: asyncio.StreamReader, connection: _Connection) -> None:
        with suppress(OSError):
            while data := await answers.read(65_536):
                if connection.ambush is not None:
                    await self._strike(connection.ambush)
                    break
                if "watch=true" not in connection.request:
                    connection.request = ""
                connection.writer.write(data)
        connection.writer.transport.abort()
