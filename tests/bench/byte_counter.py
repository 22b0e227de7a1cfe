"""A helper that counts the bytes between a program and the API server.

It listens in front of the API server and passes every byte on; TLS goes through it from end to end.
Greeting: `{"port": …}`; each line on stdin is answered with the counts so far.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any, cast

COUNTS = {"connections": 0, "to_server": 0, "from_server": 0}


class End(asyncio.Protocol):
    """One end of a connection; what it receives goes to the other end."""

    def __init__(self, counter: str, opened: Callable[[End], None] | None = None) -> None:
        self._counter = counter
        self._opened = opened
        self._waiting: list[bytes] = []
        self._ended = False
        self._closed = False
        self.transport: asyncio.Transport | None = None
        self.other: End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._opened is not None:
            self._opened(self)

    def data_received(self, data: bytes) -> None:
        COUNTS[self._counter] += len(data)
        if self.other is None or self.other.transport is None:
            self._waiting.append(data)
        else:
            self.other.transport.write(data)

    def join(self, other: End) -> None:
        """Pass on what has come already, and what comes."""
        self.other = other
        if other.transport is not None:
            other.transport.writelines(self._waiting)
            if self._closed:
                other.transport.close()
            elif self._ended:
                self.eof_received()
        self._waiting.clear()

    def eof_received(self) -> bool:
        """The sender has nothing more to say, but may still listen."""
        self._ended = True
        other = self.other
        if other is not None and other.transport is not None and not other.transport.is_closing():
            if other._ended:
                other.transport.close()
                return False
            other.transport.write_eof()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    pending: set[asyncio.Task[Any]] = set()

    async def connect(client: End) -> None:
        try:
            _, server = await loop.create_connection(lambda: End("from_server"), "127.0.0.1", port)
        except OSError:
            assert client.transport is not None
            client.transport.abort()
            return
        server.join(client)
        client.join(server)

    def accepted(client: End) -> None:
        COUNTS["connections"] += 1
        task = loop.create_task(connect(client))
        pending.add(task)
        task.add_done_callback(pending.discard)

    server = await loop.create_server(
        lambda: End("to_server", accepted), "127.0.0.1", 0, backlog=1024
    )
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    questions = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(questions), sys.stdin)
    while await questions.readline():
        print(json.dumps(COUNTS), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
