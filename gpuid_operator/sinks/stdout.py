"""stdout: one JSON line per record in the operator's log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpuid_operator.api.record import Record
from gpuid_operator.sinks.base import Unavailable

RecordWriter = Callable[[dict[str, Any]], None]
"""Writes one record as a log line; given by whoever owns the log."""


class StdoutSender:
    """Hands every record to the log, which writes it whatever its level and format."""

    def __init__(self, write_record: RecordWriter) -> None:
        self._write_record = write_record

    async def send(self, records: Sequence[Record]) -> None:
        try:
            for record in records:
                self._write_record(record.to_json())
        except OSError as error:
            raise Unavailable(f"write to standard output: {error}") from error

    async def close(self) -> None:
        """Nothing to do: the log is not this sink's."""
