"""What takes an operator's records in tests: a web service, and doors before servers.

A web service answers as the test says. A door passes bytes through to any server, and can do
something at a request that is still to come.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.support.gate import Position

Answer = tuple[int, dict[str, str]]
"""Status and headers."""

TAKEN: Answer = (204, {})


@dataclass(frozen=True)
class Delivery:
    """One request of a sink, and what it was told."""

    headers: dict[str, str]
    records: list[dict[str, Any]]
    status: int


class WebService:
    """A receiver of POSTs. Open as a context; `answer` may wait, and decides what is taken."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, str], list[dict[str, Any]]], Answer] = lambda *_: TAKEN
        self._deliveries: list[Delivery] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                service._serve(self)

            def log_message(self, *_: object) -> None:
                """Nothing: what came is in the books."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def deliveries(self) -> list[Delivery]:
        """All that was answered, oldest first."""
        return list(self._deliveries)

    @property
    def records(self) -> list[dict[str, Any]]:
        """What was taken, in its order."""
        return [
            record
            for delivery in self.deliveries
            if delivery.status < 300
            for record in delivery.records
        ]

    def sink(self, name: str = "cmdb", *, port: int | None = None, **fields: Any) -> dict[str, Any]:
        """A sink that leads here, or through a door before it."""
        http = {"url": f"http://localhost:{port or self.port}/gpus", "insecure": True}
        own = {key: fields.pop(key) for key in ("records", "batch") if key in fields}
        return {"name": name, "batch": {"maxWait": "50ms"}, **own, "http": http | fields}

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in request.headers.items()}
        records = json.loads(body)
        status, extra = self.answer(headers, records)
        self._deliveries.append(Delivery(headers, records, status))
        with suppress(OSError):  # it was killed, or did not want to wait
            request.send_response(status)
            for name, value in extra.items():
                request.send_header(name, value)
            request.send_header("Content-Length", "0")
            request.end_headers()


@dataclass
class Trap:
    """What to do at the next request that has these bytes."""

    sign: bytes
    position: Position
    action: Callable[[], object]
    cuts: bool
    struck: threading.Event = field(default_factory=threading.Event)


class Door:
    """Before a server on this machine; open as a context."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._trap: Trap | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._open):
            _hang_up(one)
        for thread in self._threads:
            thread.join()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def lay(
        self, sign: bytes, position: Position, action: Callable[[], object], *, cuts: bool = True
    ) -> Trap:
        """Do something before the server sees the next request with these bytes, or when it has
        answered; with `cuts`, neither the request nor its answer gets through."""
        self._trap = Trap(sign, position, action, cuts)
        return self._trap

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                self._open |= {client, server}
                answered: list[Trap] = []
                for work in (self._ask, self._answer):
                    thread = threading.Thread(target=work, args=(client, server, answered))
                    self._threads.append(thread)
                    thread.start()

    def _ask(self, client: socket.socket, server: socket.socket, answered: list[Trap]) -> None:
        tail = b""
        with suppress(OSError):
            while data := client.recv(65_536):
                trap, tail = self._trap, tail[-64:] + data
                if trap is not None and trap.sign in tail:
                    self._trap = None
                    if trap.position is Position.AFTER:
                        answered.append(trap)
                    elif _strike(trap):
                        break
                server.sendall(data)
        _hang_up(server)

    def _answer(self, client: socket.socket, server: socket.socket, answered: list[Trap]) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                if answered and _strike(answered.pop()):
                    break
                client.sendall(data)
        _hang_up(client)
        self._open -= {client, server}


def _strike(trap: Trap) -> bool:
    """Whether the connection ends here."""
    trap.action()
    trap.struck.set()
    return trap.cuts


def _hang_up(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
