"""Why a read of a node failed: a reason for programs and a message for people."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

MAX_MESSAGE: Final = 1024
"""Maximum length of a message in characters, as for the message of a condition."""


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
    """A failed read; the status keeps the facts of the last successful one.

    `message` is one printable line of at most `MAX_MESSAGE` characters: what was tried, what came
    back, what to do.
    """

    def __init__(self, reason: FailureReason, message: str) -> None:
        self.reason: Final = reason
        self.message: Final = one_line(message, limit=MAX_MESSAGE)
        super().__init__(self.message)


def one_line(text: str, *, limit: int) -> str:
    """The printable characters of the text on one line of at most `limit` characters."""
    words = " ".join(text.split())
    line = words if words.isprintable() else "".join(filter(str.isprintable, words))
    return line if len(line) <= limit else line[: limit - 1] + "…"
