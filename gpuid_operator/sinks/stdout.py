"""stdout: writes one JSON line per record to the log of the operator."""

from __future__ import annotations

from collections.abc import Sequence

from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import StdoutSink
from gpuid_operator.sinks.base import Unavailable
from gpuid_operator.sinks.opening import RecordWriter, SinkOpening
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


def open_sink(spec: StdoutSink, opening: SinkOpening) -> StdoutSender:
    return StdoutSender(opening.context.write_records)


class StdoutSender:
    """Passes records to the log, which writes them at any level and in any format."""

    def __init__(self, write_records: RecordWriter) -> None:
        self._write_records = write_records

    async def send(self, records: Sequence[Record]) -> None:
        try:
            self._write_records([record.to_json() for record in records])
        except OSError as error:
            raise Unavailable(f"failed to write to standard output: {error}") from error
        _log.info("export completed", records=len(records))

    async def close(self) -> None:
        """Do nothing: the log has another owner."""
