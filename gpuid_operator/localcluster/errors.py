"""The errors of the local cluster.

    LocalClusterError
    ├── BuildError            failed to build the binaries of the servers
    ├── ServerError           a server did not start or did not respond
    ├── ApiError              the API server refused a request
    └── RealNodeUnavailable   this machine cannot run a real node

Each message says what failed, why, and what to do.
"""

from __future__ import annotations


class LocalClusterError(Exception):
    """Base of all errors of this package."""


class BuildError(LocalClusterError):
    """The binaries are missing, and their build failed."""


class ServerError(LocalClusterError):
    """A server ended, or was not ready in time."""


class RealNodeUnavailable(LocalClusterError):  # noqa: N818 - it names a state
    """The real node needs root, Linux and containerd; the message names what is missing."""


class ApiError(LocalClusterError):
    """The API server responded with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
