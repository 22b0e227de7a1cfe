"""Free TCP ports for the servers of a cluster."""

from __future__ import annotations

import random
import socket
from typing import Final

from gpuid_operator.localcluster.errors import LocalClusterError

# Below the range from which systems take ports for outgoing connections, so that a stopped
# server's port is still free when it starts again.
_FIRST: Final = 18_000
_LAST: Final = 32_000


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Free ports, chosen at random so that two clusters do not collide."""
    found: list[int] = []
    for port in random.sample(range(_FIRST, _LAST), 400):
        if is_free(host, port):
            found.append(port)
            if len(found) == count:
                return found
    raise LocalClusterError(
        f"failed to find {count} free ports between {_FIRST} and {_LAST} on {host}"
    )


def is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
