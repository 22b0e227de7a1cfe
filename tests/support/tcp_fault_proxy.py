"""A TCP proxy in front of the server of a sink, which can inject a fault at a chosen request.

The proxy passes bytes through in both directions. A trap starts its action when the next request
contains a given byte pattern.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.support.api_fault_proxy import Position


@dataclass
class PatternTrap:
    """What to do at the next request that contains `pattern`."""

    pattern: bytes
    position: Position
    action: Callable[[], object]
    triggered: threading.Event = field(default_factory=threading.Event)


class TcpFaultProxy:
    """Listens in front of a server of this machine. Use it as a context."""

    def __init__(self, port: int, *, listen: int = 0) -> None:
        """`port` is the server's; `listen` the proxy's, 0 for any."""
        self._upstream = port
        self._trap: PatternTrap | None = None
        self._listener = socket.create_server(("127.0.0.1", listen))
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

    def set_trap(
        self, pattern: bytes, position: Position, action: Callable[[], object]
    ) -> PatternTrap:
        """Run `action` at the next request that contains `pattern`: before the server receives it,
        or after the server answered. The proxy then drops the request or answer."""
        self._trap = PatternTrap(pattern, position, action)
        return self._trap

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                self._open |= {client, server}
                answered: list[PatternTrap] = []
                for work in (self._ask, self._answer):
                    thread = threading.Thread(target=work, args=(client, server, answered))
                    self._threads.append(thread)
                    thread.start()

    def _ask(
        self, client: socket.socket, server: socket.socket, answered: list[PatternTrap]
    ) -> None:
        tail = b""
        with suppress(OSError):
            while data := client.recv(65_536):
                trap, tail = self._trap, tail[-64:] + data
                if trap is not None and trap.pattern in tail:
                    self._trap = None
                    if trap.position is Position.AFTER:
                        answered.append(trap)
                    else:
                        _trigger(trap)
                        break
                server.sendall(data)
        _hang_up(server)

    def _answer(
        self, client: socket.socket, server: socket.socket, answered: list[PatternTrap]
    ) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                if answered:
                    _trigger(answered.pop())
                    break
                client.sendall(data)
        _hang_up(client)
        self._open -= {client, server}


def _trigger(trap: PatternTrap) -> None:
    trap.action()
    trap.triggered.set()


def _hang_up(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
