"""What can go wrong with the local cluster, as a person meets it.

    LocalClusterError
    ├── BuildError            the servers' binaries could not be built
    ├── ServerError           a server did not start or did not answer
    ├── ApiError              the API server refused a request
    └── RealNodeUnavailable   this machine cannot run a real node

Every message says what was tried, what came back and what to do.
"""

from __future__ import annotations


class LocalClusterError(Exception):
    """Base of all errors of this package."""


class BuildError(LocalClusterError):
    """The binaries are in neither place and could not be built."""


class ServerError(LocalClusterError):
    """A server ended, or did not become ready in its time."""


class RealNodeUnavailable(LocalClusterError):  # noqa: N818 - it names a state
    """The real node needs root, Linux and containerd; the message names what is missing."""


class ApiError(LocalClusterError):
    """The API server answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
