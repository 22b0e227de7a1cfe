"""Execs of the fake API server: what a command in a container answers, as frames of a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from gpuid_operator.kube.in_flight import InFlight

_FLOOD = b" " * 32_768


@dataclass(frozen=True, slots=True)
class ExecCall:
    """An exec as it reached the server."""

    path: str
    pod: str
    container: str
    command: tuple[str, ...]
    time: float
    """Seconds of the loop's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecAnswer:
    """What becomes of an exec."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    failure: str | None = None
    """The runtime's words where the command could not be run."""
    refusal: Exception | None = None
    """Raised instead of a connection."""
    delay: float = 0.0
    """Seconds from the connection to the output."""
    hang: bool = False
    """It never ends."""
    cut: bool = False
    """The connection breaks off before the status."""
    flood: int = 0
    """Bytes of further output after `stdout`, in frames of 32 KiB."""


@dataclass(slots=True)
class ExecHandler:
    """Answers execs: with `answer`, or as `decide` says, if a test sets it."""

    answer: ExecAnswer = field(default_factory=ExecAnswer)
    decide: Callable[[ExecCall], ExecAnswer] | None = None
    calls: list[ExecCall] = field(default_factory=list)
    running: int = 0
    most: int = 0
    """The most that ran at a time."""
    flooded: int = 0
    """Bytes that clients took of all floods."""

    def __call__(self, call: ExecCall) -> ExecAnswer:
        self.calls.append(call)
        return self.decide(call) if self.decide is not None else self.answer


class _Socket:
    """The server's end of an exec, as far as a client reads it."""

    protocol = "v5.channel.k8s.io"

    def __init__(self, answer: ExecAnswer, frames: Iterator[bytes]) -> None:
        self._answer = answer
        self._frames = frames
        self.close_code: int | None = None
        self._waited = False

    async def receive(self) -> aiohttp.WSMessage:
        if not self._waited:
            self._waited = True
            await asyncio.sleep(self._answer.delay)
            if self._answer.hang:
                await asyncio.Event().wait()
        for frame in self._frames:
            return _message(aiohttp.WSMsgType.BINARY, frame)
        self.close_code = aiohttp.WSCloseCode.ABNORMAL_CLOSURE
        return _message(aiohttp.WSMsgType.CLOSED, None)


def _frames(answer: ExecAnswer, handler: ExecHandler) -> Iterator[bytes]:
    if answer.stdout:
        yield b"\x01" + answer.stdout
    for _ in range(answer.flood // len(_FLOOD)):
        handler.flooded += len(_FLOOD)
        yield b"\x01" + _FLOOD
    if answer.stderr:
        yield b"\x02" + answer.stderr
    if not answer.cut:
        yield b"\x03" + orjson.dumps(_status(answer))


def _message(kind: aiohttp.WSMsgType, data: bytes | None) -> aiohttp.WSMessage:
    # Its constructor is typed as a union of classes that the package does not export.
    return aiohttp.WSMessage(kind, data, None)


def _status(answer: ExecAnswer) -> dict[str, Any]:
    if answer.failure is not None:
        return {"status": "Failure", "reason": "InternalError", "message": answer.failure}
    if answer.exit_code == 0:
        return {"status": "Success"}
    code = str(answer.exit_code)
    return {
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": code}]},
    }


class FakeWebSockets:
    """In the place of `KubeClient.websockets`."""

    def __init__(self, handler: ExecHandler) -> None:
        self._handler = handler
        self.openings = InFlight(places=3)

    @asynccontextmanager
    async def open(
        self,
        path: str,
        *,
        params: Sequence[tuple[str, str]],
        protocols: tuple[str, ...],
        max_message: int,
    ) -> AsyncIterator[Any]:
        """Open an exec; the block ends it."""
        command = tuple(value for name, value in params if name == "command")
        container = dict(params)["container"]
        pod = path.split("/")[-2]
        time = asyncio.get_running_loop().time()
        answer = self._handler(ExecCall(path, pod, container, command, time))
        await asyncio.sleep(0)
        if answer.refusal is not None:
            raise answer.refusal
        self._handler.running += 1
        self._handler.most = max(self._handler.most, self._handler.running)
        try:
            yield _Socket(answer, _frames(answer, self._handler))
        finally:
            self._handler.running -= 1

    async def close(self) -> None:
        """Nothing is open."""
