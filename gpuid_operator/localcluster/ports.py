"""Free TCP ports for the servers of a cluster."""

from __future__ import annotations

import random
import socket

from gpuid_operator.localcluster.errors import LocalClusterError

candidates = range(18_000, 32_000)
"""Below the range from which systems take ports for outgoing connections, so that a stopped
server's port is still free when it starts again. Tests in parallel processes divide it up."""


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Free ports, chosen at random so that two clusters do not collide."""
    found: list[int] = []
    for port in random.sample(candidates, 400):
        if is_free(host, port):
            found.append(port)
            if len(found) == count:
                return found
    raise LocalClusterError(
        f"failed to find {count} free ports between {candidates.start} and"
        f" {candidates.stop} on {host}"
    )


def is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
