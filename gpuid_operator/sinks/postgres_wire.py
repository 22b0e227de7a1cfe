"""Bounds on what a PostgreSQL server can make the operator receive and compute.

A user who may write a sink chooses the server. asyncpg reads a message of any length, joins its
parts in quadratic time, and derives the key of SCRAM in the event loop, with as many iterations as
the server demands. The codecs of asyncpg turn a few bytes into lists and numbers of any size, so
results are read as JSON, by COPY, which asyncpg passes on as bytes.
"""

from __future__ import annotations

import re
import struct
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import asyncpg.protocol
from pydantic import TypeAdapter

MAX_MESSAGE: Final = 256 * 1024
"""Maximum length of one message in bytes."""
MAX_ITERATIONS: Final = 100_000
"""Maximum sum of the SCRAM iterations of one batch: some 50 ms. PostgreSQL's default is 4,096."""

MAX_AUTHENTICATIONS: Final = 64
"""Maximum number of authentication messages of one batch. SCRAM needs 4 for a connection, and a
batch may try several addresses."""

_BASE: Final = 1024 * 1024
# Enough for an error per record, and for a notice of a trigger.
_PER_RECORD: Final = 2048
_HEADER: Final = struct.Struct("!ci")
# Types of the messages that the sink can get. asyncpg loops forever at a message of type 0.
_KINDS: Final = frozenset(b"RSANKEZCDITGHdc")
# asyncpg crashes the process if these steps of SCRAM do not follow the step before them.
_STEP_BEFORE: Final = {11: 10, 12: 11}
_SCRAM: Final = re.compile(rb",i=(\d+)")

Row = TypeVar("Row")


class _ExceededError(ConnectionError):
    """A bound is exceeded. An OSError, which asyncio does not log."""


@dataclass
class Allowance:
    """What the server of one batch may still make the operator do."""

    limit: int
    """Maximum number of bytes, over all connections."""
    received: int = 0
    authentications: int = 0
    iterations: int = 0
    exceeded: str | None = None
    """Which bound the server exceeded, for the message of an error."""

    @classmethod
    def for_batch(cls, records: int) -> Allowance:
        return cls(limit=_BASE + records * _PER_RECORD)

    def receive(self, size: int) -> None:
        self.received += size
        if self.exceeded:
            raise _ExceededError(self.exceeded)
        if self.received > self.limit:
            raise self._exceed(f"the server sent more than {self.limit} bytes")

    def check_message(self, kind: bytes, length: int) -> None:
        if not 4 <= length <= MAX_MESSAGE or kind[0] not in _KINDS:
            raise self._exceed(
                f"the server sent a message of {length} bytes, more than {MAX_MESSAGE}"
                if length > MAX_MESSAGE
                else f"the server sent an invalid message of type {kind!r}"
            )

    def authenticate(self, message: bytes) -> None:
        """Count a message that demands authentication, each of which costs an answer."""
        self.authentications += 1
        if self.authentications > MAX_AUTHENTICATIONS:
            raise self._exceed("the server demands authentication without end")
        for digits in _SCRAM.findall(message):
            self.iterations += int(digits.lstrip(b"0")[:12] or b"0")
        if self.iterations > MAX_ITERATIONS:
            raise self._exceed(f"the server demands more than {MAX_ITERATIONS} SCRAM iterations")

    def violate(self, error: Exception) -> _ExceededError:
        """The error for messages that asyncpg does not expect."""
        return self._exceed(f"the server violates the protocol of PostgreSQL: {error}")

    def _exceed(self, what: str) -> _ExceededError:
        self.exceeded = what
        return _ExceededError(what)


allowance: ContextVar[Allowance | None] = ContextVar("allowance", default=None)
"""What the connections that are made in this context may receive."""


class _BoundedProtocol(asyncpg.protocol.Protocol):  # type: ignore[misc]
    """Passes only complete messages to asyncpg, and only within the allowance."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._allowance = allowance.get()
        self._pending = bytearray()
        self._step = -1

    def data_received(self, data: bytes) -> None:
        if self._allowance is None:
            super().data_received(data)
            return
        self._allowance.receive(len(data))
        self._pending += data
        end = 0
        while len(self._pending) - end >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._pending, end)
            self._allowance.check_message(kind, length)
            if len(self._pending) - end <= length:
                break
            if kind == b"R":
                self._authenticate(bytes(self._pending[end + _HEADER.size : end + 1 + length]))
            end += 1 + length
        if end:
            complete = bytes(self._pending[:end])
            del self._pending[:end]
            try:
                super().data_received(complete)
            except Exception as error:
                raise self._allowance.violate(error) from None

    def _authenticate(self, content: bytes) -> None:
        assert self._allowance is not None  # noqa: S101 - the caller has checked
        self._allowance.authenticate(content)
        step = int.from_bytes(content[:4])
        if _STEP_BEFORE.get(step, self._step) != self._step:
            raise self._allowance.violate(ValueError("SCRAM out of order"))
        self._step = step


# asyncpg has no setting for the class of its protocol.
asyncpg.protocol.Protocol = _BoundedProtocol


async def read_rows(connection: Any, query: str, row: type[Row]) -> list[Row]:
    """The rows of a query without parameters, each as a `row`. Raises ValueError if the server
    returns anything else."""
    parts: list[bytes] = []

    async def keep(data: bytes) -> None:
        parts.append(data)

    await connection.copy_from_query(f"SELECT row_to_json(r) FROM ({query}) r", output=keep)  # noqa: S608 - the query of a caller
    # In COPY's text format, a backslash is doubled; JSON has no other character that is escaped.
    lines = b"".join(parts).replace(b"\\\\", b"\\").split(b"\n")
    return TypeAdapter(list[row]).validate_json(b"[" + b",".join(lines[:-1]) + b"]")  # type: ignore[valid-type]


def copy_text(rows: list[tuple[str | None, ...]]) -> memoryview:
    """Rows in the text format of COPY, which asyncpg sends as they are."""
    return memoryview("".join("\t".join(map(_field, row)) + "\n" for row in rows).encode())


def _field(value: str | None) -> str:
    return "\\N" if value is None else value.translate(_ESCAPES)


_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
