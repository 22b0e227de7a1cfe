"""stdout: one JSON line per record in the operator's log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from gpuid_operator.api.record import Record
from gpuid_operator.sinks.base import Unavailable

RecordWriter = Callable[[Iterable[Mapping[str, object]]], None]
"""Writes records as log lines, all or none; given by whoever owns the log. May raise OSError."""


class StdoutSender:
    """Hands records to the log, which writes them whatever its level and format."""

    def __init__(self, write_records: RecordWriter) -> None:
        self._write_records = write_records

    async def send(self, records: Sequence[Record]) -> None:
        try:
            self._write_records([record.to_json() for record in records])
        except OSError as error:
            raise Unavailable(f"write to standard output: {error}") from error

    async def close(self) -> None:
        """Nothing to do: the log is not this sink's."""
