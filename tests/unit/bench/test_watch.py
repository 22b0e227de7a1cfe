"""A watch of the benchmark goes on where the server ended it, and says why it cannot."""

from __future__ import annotations

import io
import json
import socket
from typing import Any, cast

import pytest

from tests.bench.api import Stream, Watch
from tests.bench.errors import BenchError


def event(version: str, kind: str = "MODIFIED") -> bytes:
    body = {"type": kind, "object": {"metadata": {"resourceVersion": version}, "message": "old"}}
    return json.dumps(body).encode() + b"\n"


class Connection:
    """One end of a pair of sockets, as of an HTTP connection."""

    def __init__(self) -> None:
        self.sock, self._other = socket.socketpair()

    def close(self) -> None:
        self.sock.close()
        self._other.close()


class Server:
    """Answers each watch with the next of these streams; None fails."""

    def __init__(self, *streams: list[bytes] | None) -> None:
        self._streams = list(streams)
        self.asked: list[str] = []

    def connect(self, since: str) -> Any:
        self.asked.append(since)
        lines = self._streams.pop(0)
        if lines is None:
            raise BenchError("GET: 503")
        return Connection(), io.BytesIO(b"".join(lines))


def watch(server: Server, handled: list[str]) -> Watch:
    def handle(event: Any) -> None:
        handled.append(event["object"]["metadata"]["resourceVersion"])

    one = Watch(cast("Stream", server.connect), "1", handle)
    one.join(10)
    return one


def test_it_goes_on_after_the_last_event_and_fails_where_it_cannot() -> None:
    server = Server([event("2"), event("5")], [], [event("7")], None)
    handled: list[str] = []
    one = watch(server, handled)
    assert handled == ["2", "5", "7"]
    assert server.asked == ["1", "5", "5", "7"]
    with pytest.raises(BenchError, match="503"):
        one.check()
    one.stop()
    one.check()


def test_an_error_event_ends_it() -> None:
    handled: list[str] = []
    one = watch(Server([event("2"), event("", "ERROR")]), handled)
    assert handled == ["2"]
    with pytest.raises(BenchError, match="old"):
        one.check()
    one.stop()


def test_an_event_that_cannot_be_handled_ends_it() -> None:
    one = watch(Server([b'{"type": "ADDED", "object": {}}\n']), [])
    with pytest.raises(BenchError, match="KeyError"):
        one.check()
    one.stop()
