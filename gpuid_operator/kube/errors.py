"""Errors of the Kubernetes client.

    KubeError                     .message: what failed, why, and what to do
    ├── NoCluster                 no usable kubeconfig, and not inside a cluster
    ├── ApiUnreachable            no response: DNS, connection, TLS, timeout
    ├── ListExpired               the snapshot of a paged list expired: list again from the start
    ├── ApiError                  an error response: .status .reason .server_message
    │   ├── Unauthorized          401
    │   ├── Forbidden             403
    │   ├── NotFound              404
    │   ├── Conflict              409: the object changed (resourceVersion, uid)
    │   │   └── AlreadyExists     409 of a creation
    │   ├── Gone                  410
    │   ├── Invalid               422
    │   ├── TooManyRequests       429, after retries
    │   ├── FieldUnknown          500 of an apply: the CRD lacks a field
    │   └── ServerError           5xx
    └── ExecError                 a command in a container: .stdout .stderr until then
        ├── ExecTimedOut
        ├── ExecForbidden
        ├── ExecPodGone           the pod or the container does not exist or does not run
        ├── CommandNotFound       the container does not have the program
        ├── ExecTooLarge          more output than allowed
        ├── ExecIncomplete        the connection ended without the final status
        └── ExecFailed            any other error, as reported by the server

No message contains a token, the value of a Secret or the body of a request.
"""

# ruff: noqa: N818 - the names say what happened; an Error suffix would add nothing

from __future__ import annotations


class KubeError(Exception):
    """Base class of all errors of the Kubernetes client."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NoCluster(KubeError):
    """No cluster is configured, or its credentials are unreadable."""


class ApiUnreachable(KubeError):
    """No response. Read before you retry a write: the API server may have executed it."""


class ListExpired(KubeError):
    """The snapshot of a paged list expired; the pages so far are an incomplete list."""


class ApiError(KubeError):
    """The API server responded with an error."""

    def __init__(self, message: str, *, status: int, reason: str, server_message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.server_message = server_message
        self.retry_after: float | None = None
        """Retry-After in seconds, if the server sent it."""


class Unauthorized(ApiError):
    """401: the server does not accept the credentials."""


class Forbidden(ApiError):
    """403: the credentials lack a permission."""


class NotFound(ApiError):
    """404: the object or the kind does not exist."""


class Conflict(ApiError):
    """409: the object changed or was replaced since it was read."""


class AlreadyExists(Conflict):
    """409 on creation: an object with that name exists."""


class Gone(ApiError):
    """410: the requested version is no longer available."""


class Invalid(ApiError):
    """422: the object violates its schema."""


class TooManyRequests(ApiError):
    """429: the server is still overloaded after retries."""


class FieldUnknown(ApiError):
    """500 of an apply: the CRD in the cluster does not have a field of it."""


class ServerError(ApiError):
    """5xx: the server failed."""


class ExecError(KubeError):
    """A command in a container returned no complete result."""

    def __init__(self, message: str, *, stdout: bytes = b"", stderr: bytes = b"") -> None:
        super().__init__(message)
        self.stdout = stdout
        self.stderr = stderr


class ExecTimedOut(ExecError):
    """The command did not end within the timeout and may still be running."""


class ExecForbidden(ExecError):
    """The credentials do not allow commands in the container."""


class ExecPodGone(ExecError):
    """The pod or its container does not exist or does not run."""


class CommandNotFound(ExecError):
    """The container does not have the program."""


class ExecTooLarge(ExecError):
    """The output exceeds the limit."""


class ExecIncomplete(ExecError):
    """The connection ended without the status frame: output may be missing."""


class ExecFailed(ExecError):
    """The command failed to run for another reason, which the server reports."""
