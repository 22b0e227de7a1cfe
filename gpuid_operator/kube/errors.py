"""What can go wrong between us and a Kubernetes API server.

    KubeError                     .message: what was tried, what came back, what to do
    ├── NoCluster                 no usable kubeconfig and not inside a cluster
    ├── ApiUnreachable            no answer: DNS, connection, TLS, time-out
    ├── ListExpired               a paged list outlived its snapshot: list again from the start
    ├── ApiError                  the server answered with an error: .status .reason .server_message
    │   ├── Unauthorized          401
    │   ├── Forbidden             403
    │   ├── NotFound              404
    │   ├── Conflict              409: the object is another by now (resourceVersion, uid)
    │   │   └── AlreadyExists     409 of a creation
    │   ├── Gone                  410
    │   ├── Invalid               422
    │   ├── TooManyRequests       429, after the retries that Retry-After asked for
    │   └── ServerError           5xx
    └── ExecError                 a command in a container: .stdout .stderr as far as they came
        ├── ExecTimedOut
        ├── ExecForbidden
        ├── ExecPodGone           the pod or the container is not there or does not run
        ├── CommandNotFound       the container has no such program
        ├── ExecTooLarge          more output than allowed
        ├── ExecIncomplete        the socket ended without the status that ends an exec
        └── ExecFailed            anything else, in the server's words

No message holds a token, a secret's value or a request's body.
"""

# ruff: noqa: N818 - the names say what happened; a suffix on all of them would say nothing

from __future__ import annotations


class KubeError(Exception):
    """Base of all errors of this room."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NoCluster(KubeError):
    """There is nothing to connect to, or the credentials for it cannot be read."""


class ApiUnreachable(KubeError):
    """No answer. Whether the API server acted on a write is unknown: read before retrying."""


class ListExpired(KubeError):
    """The snapshot behind a paged list is gone; pages that came before it are not a full list."""


class ApiError(KubeError):
    """The API server answered with an error."""

    def __init__(self, message: str, *, status: int, reason: str, server_message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.server_message = server_message
        self.retry_after: float | None = None
        """Seconds, where the server named them."""


class Unauthorized(ApiError):
    """401: the credentials are not accepted."""


class Forbidden(ApiError):
    """403: the credentials lack a right."""


class NotFound(ApiError):
    """404: no such object, or no such kind."""


class Conflict(ApiError):
    """409: the object changed, or is another one, since it was read."""


class AlreadyExists(Conflict):
    """409 of a creation: there is an object of that name."""


class Gone(ApiError):
    """410: the requested version is no longer kept."""


class Invalid(ApiError):
    """422: the object breaks its schema."""


class TooManyRequests(ApiError):
    """429: the server is overloaded, still so after the retries it asked for."""


class ServerError(ApiError):
    """5xx: the server failed."""


class ExecError(KubeError):
    """A command in a container gave no complete answer."""

    def __init__(self, message: str, *, stdout: bytes = b"", stderr: bytes = b"") -> None:
        super().__init__(message)
        self.stdout = stdout
        self.stderr = stderr


class ExecTimedOut(ExecError):
    """No end within the time-out. The command may still run in the container."""


class ExecForbidden(ExecError):
    """The credentials may not execute commands there."""


class ExecPodGone(ExecError):
    """The pod or its container is not there, or does not run."""


class CommandNotFound(ExecError):
    """The container has no such program."""


class ExecTooLarge(ExecError):
    """More output than allowed."""


class ExecIncomplete(ExecError):
    """The socket ended without the status frame: output may be missing."""


class ExecFailed(ExecError):
    """The command could not be run, in the server's words."""
