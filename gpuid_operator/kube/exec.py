"""Runs a command in a container over a WebSocket.

The first byte of a message is its channel: 1 stdout, 2 stderr, 3 the Status object that ends the
exec. Without that status the output may be incomplete and is not a result. (Kubernetes: the
subprotocols v4.channel.k8s.io and v5.channel.k8s.io.)
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import aiohttp
import orjson

from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import (
    ApiError,
    CommandNotFound,
    ExecError,
    ExecFailed,
    ExecForbidden,
    ExecIncomplete,
    ExecPodGone,
    ExecTimedOut,
    ExecTooLarge,
    Forbidden,
    NotFound,
)

__all__ = [
    "CommandNotFound",
    "ExecError",
    "ExecFailed",
    "ExecForbidden",
    "ExecIncomplete",
    "ExecPodGone",
    "ExecResult",
    "ExecTimedOut",
    "ExecTooLarge",
    "pod_exec",
]

_PROTOCOLS: Final = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDOUT: Final = 1
_STDERR: Final = 2
_STATUS: Final = 3
_STATUS_SIZE: Final = 65_536
"""Bytes allowed in a message beyond the output: the status frame and the channel byte."""

# Messages of runtimes about a missing program: runc behind containerd ("executable file not found
# in $PATH", "stat /x: no such file or directory"), crun ("executable file `x` not found in $PATH"),
# Kata ("the file x was not found"), and KWOK ("fork/exec /x: no such file or directory").
_NO_PROGRAM: Final = re.compile(
    r"executable file (?:`[^`]*` )?not found in \$PATH"
    r"|(?:stat|fork/exec|exec) [^\s:]+: no such file or directory"
    r"|the file \S+ was not found"
)
# Runtimes that convert their own failure into an exit code print such a message.
_RUNTIME_FAILED: Final = re.compile(
    r"OCI runtime (?:exec failed|attempted to invoke)"
    r"|exec failed: unable to start container process"
)
_RUNTIME_EXIT_CODES: Final = frozenset({1, 126, 127, 255})
# The kubelet: "container not found"; the API server: "is not valid for pod", "in a completed pod";
# KWOK: "no exec found for container"; a container that just ended: "not running", "is in … state".
_NO_CONTAINER: Final = re.compile(
    r"container not found|is not valid for pod|in a completed pod|pod does not exist"
    r"|not found for container|exec found for container|could not find container"
    r"|container \S* ?(?:is )?not (?:created or )?running|is in CONTAINER_\w+ state"
    r"|does not have a host assigned|not found in pod"
)
# KWOK reports no exit codes, except at the end of its message.
_KWOK_EXIT: Final = re.compile(r"cmd wait: .*: exit status (\d+)\s*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ExecResult:
    """The complete result of a command that ended by itself."""

    stdout: bytes
    stderr: bytes
    exit_code: int


async def pod_exec(
    client: KubeClient,
    *,
    namespace: str,
    pod: str,
    container: str,
    command: Sequence[str],
    timeout: float,
    max_bytes: int,
) -> ExecResult:
    """Run `command` (a program and its arguments, without a shell) and wait for its end.

    `timeout` is in seconds, from the connection to the status; `max_bytes` limits stdout and stderr
    together. The rate limit of the client does not apply. After an error or a cancellation, the
    connection is closed, but the program may still run in the container: wait before the next one.

    Raises ExecError and its subclasses; ApiUnreachable and Unauthorized if no exec can succeed.
    """
    run = _Exec(
        where=f"{namespace}/{pod}, container {container}",
        command=command,
        max_bytes=max_bytes,
    )
    try:
        async with (
            client.websockets.openings.place() as opening,
            asyncio.timeout(timeout),
            client.websockets.open(
                f"/api/v1/namespaces/{namespace}/pods/{pod}/exec",
                params=[
                    ("container", container),
                    ("stdout", "true"),
                    ("stderr", "true"),
                    *(("command", part) for part in command),
                ],
                protocols=_PROTOCOLS,
                max_message=max_bytes + _STATUS_SIZE,
            ) as socket,
        ):
            opening.give_back()
            return await run.read(socket)
    except TimeoutError:
        run.fail(
            ExecTimedOut,
            f"did not end within {timeout:g} s; it may still be running, so the operator waits"
            " before the next attempt",
        )
    except ApiError as error:
        run.rejected(error)


class _Exec:
    """One exec: its output so far, and the result or error at its end."""

    def __init__(self, *, where: str, command: Sequence[str], max_bytes: int) -> None:
        self._what = f"`{' '.join(command)[:120]}` in {where}"
        self._max_bytes = max_bytes
        self._stdout = bytearray()
        self._stderr = bytearray()

    async def read(self, socket: aiohttp.ClientWebSocketResponse) -> ExecResult:
        if socket.protocol is None:
            self.fail(ExecFailed, f"failed: the server supports none of {', '.join(_PROTOCOLS)}")
        while True:
            message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self.fail(ExecFailed, "failed: the server sent text instead of bytes")
                self._ended(socket)
            data = message.data
            if not data:
                continue
            channel = data[0]
            if channel in (_STDOUT, _STDERR):
                stream = self._stdout if channel == _STDOUT else self._stderr
                stream += memoryview(data)[1:]
                if len(self._stdout) + len(self._stderr) > self._max_bytes:
                    self._too_large()
            elif channel == _STATUS:
                return self._result(data[1:])

    def _result(self, frame: bytes) -> ExecResult:
        try:
            status = orjson.loads(frame)
        except orjson.JSONDecodeError:
            self.fail(ExecIncomplete, "ended with a status that is not JSON")
        if status.get("status") == "Success":
            return ExecResult(bytes(self._stdout), bytes(self._stderr), 0)
        message = str(status.get("message") or status.get("reason") or "no reason given")[:2048]
        code = _exit_code(status, message)
        if code is None:
            if _NO_PROGRAM.search(message):
                self._no_program(message)
            if _NO_CONTAINER.search(message):
                self.fail(ExecPodGone, f"cannot run: {message}")
            self.fail(ExecFailed, f"failed to run: {message}")
        if code in _RUNTIME_EXIT_CODES:
            for stream in (self._stderr, self._stdout):
                said = bytes(stream[:2048]).decode("utf-8", "replace")
                if _RUNTIME_FAILED.search(said) and _NO_PROGRAM.search(said):
                    self._no_program(said.strip())
        return ExecResult(bytes(self._stdout), bytes(self._stderr), code)

    def rejected(self, error: ApiError) -> NoReturn:
        """Raise the error for a handshake that the API server, or a kubelet behind it, rejected."""
        said = error.server_message or f"status {error.status}"
        if isinstance(error, Forbidden):
            self.fail(
                ExecForbidden,
                f"is forbidden: {said}; grant get and create on pods/exec",
                cause=error,
            )
        if isinstance(error, NotFound) or _NO_CONTAINER.search(said):
            self.fail(ExecPodGone, f"cannot run: {said}", cause=error)
        if error.status == 401:
            raise error
        self.fail(ExecFailed, f"was rejected with status {error.status}: {said}", cause=error)

    def fail(
        self, kind: type[ExecError], text: str, *, cause: BaseException | None = None
    ) -> NoReturn:
        """Raise an error of this kind with the output so far."""
        raise kind(
            f"{self._what} {text}", stdout=bytes(self._stdout), stderr=bytes(self._stderr)
        ) from cause

    def _ended(self, socket: aiohttp.ClientWebSocketResponse) -> NoReturn:
        if socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
            self._too_large()
        self.fail(
            ExecIncomplete,
            f"was interrupted after {len(self._stdout)} bytes, without a final status"
            f" (WebSocket close code {socket.close_code})",
        )

    def _too_large(self) -> NoReturn:
        # Bound the size of the error.
        del self._stdout[self._max_bytes :]
        del self._stderr[self._max_bytes :]
        self.fail(ExecTooLarge, f"printed more than {self._max_bytes} bytes and was stopped")

    def _no_program(self, said: str) -> NoReturn:
        self.fail(CommandNotFound, f"cannot run: the container has no such program: {said}")


def _exit_code(status: dict[str, Any], message: str) -> int | None:
    """The exit code of the command; None if it did not run."""
    if status.get("reason") == "NonZeroExitCode":
        for cause in (status.get("details") or {}).get("causes") or ():
            if cause.get("reason") == "ExitCode":
                try:
                    return int(cause.get("message", ""))
                except ValueError:
                    return None
    if found := _KWOK_EXIT.search(message):
        return int(found[1])
    return None
