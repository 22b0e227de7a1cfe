"""The proxy of the benchmark passes every byte on and counts it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.bench.helpers import Helper

BIG = b"x" * 3_000_000
"""More than the buffers of the connections hold."""


@pytest.fixture
def port() -> Iterator[int]:
    """A server that returns what it gets, to its end, and then closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                content = b"".join(iter(lambda: connection.recv(65_536), b""))
                connection.sendall(content)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]


def test_bytes_are_counted_in_both_directions(port: int) -> None:
    with Helper("byte_counter", str(port)) as counter:
        assert counter.ask("bytes") == {"connections": 0, "to_server": 0, "from_server": 0}
        address = ("127.0.0.1", counter.greeting["port"])
        with socket.create_connection(address) as client:
            client.sendall(BIG)
            client.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: client.recv(65_536), b""))
        counts = counter.ask("bytes")
    assert received == BIG
    assert counts == {"connections": 1, "to_server": len(BIG), "from_server": len(BIG)}
