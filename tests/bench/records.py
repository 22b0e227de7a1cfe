"""Counts the records in the log of a program while it writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

RECORD: Final = b"gpu serial number reading"
"""The message of a record in the logs of gpuid and of gpuid-operator."""


class RecordCounter:
    """Reads a growing log, each part of it once."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._position = 0
        self._rest = b""
        self._count = 0

    def count(self) -> int:
        """The records in whole lines so far."""
        with self._log.open("rb") as file:
            file.seek(self._position)
            new = file.read()
        self._position += len(new)
        whole, _, rest = (self._rest + new).rpartition(b"\n")
        self._rest = rest
        self._count += sum(RECORD in line for line in whole.split(b"\n"))
        return self._count
