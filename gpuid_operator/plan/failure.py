"""Why a read of a node failed: the reason for programs and the sentence for people."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

MAX_MESSAGE: Final = 1024
"""Characters of a failure's message; the message of a condition holds as many."""


class FailureReason(StrEnum):
    """The reasons of `Ready=False` after a read."""

    EXEC_FAILED = "ExecFailed"
    TIMED_OUT = "TimedOut"
    NVIDIA_SMI_NOT_FOUND = "NvidiaSmiNotFound"
    DRIVER_NOT_LOADED = "DriverNotLoaded"
    UNPARSABLE = "Unparsable"
    INCOMPLETE = "Incomplete"
    FORBIDDEN = "Forbidden"
    NO_TARGET_POD = "NoTargetPod"
    NODE_NOT_FOUND = "NodeNotFound"


class ReadError(Exception):
    """A read that gave no facts; the last good ones stay.

    `message` is one printable line of at most `MAX_MESSAGE` characters that says what was
    tried, what came back and what to do, whatever text it was made from.
    """

    def __init__(self, reason: FailureReason, message: str) -> None:
        self.reason: Final = reason
        self.message: Final = one_line(message, limit=MAX_MESSAGE)
        super().__init__(self.message)


def one_line(text: str, *, limit: int) -> str:
    """The text on one line, without what cannot be printed, at most `limit` characters long."""
    words = " ".join(text.split())
    line = words if words.isprintable() else "".join(filter(str.isprintable, words))
    return line if len(line) <= limit else line[: limit - 1] + "…"
