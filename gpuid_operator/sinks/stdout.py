"""stdout: writes one JSON line per record to the log of the operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from gpuid_operator.api.record import Record
from gpuid_operator.sinks.base import Unavailable

RecordWriter = Callable[[Iterable[Mapping[str, object]]], None]
"""Writes records as log lines, all or none; provided by the owner of the log. May raise OSError."""


class StdoutSender:
    """Passes records to the log, which writes them at any level and in any format."""

    def __init__(self, write_records: RecordWriter) -> None:
        self._write_records = write_records

    async def send(self, records: Sequence[Record]) -> None:
        try:
            self._write_records([record.to_json() for record in records])
        except OSError as error:
            raise Unavailable(f"failed to write to standard output: {error}") from error

    async def close(self) -> None:
        """Do nothing: the log has another owner."""
