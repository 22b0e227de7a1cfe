"""A sink whose deliveries are counted, and whose every error is a SinkError."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gpuid_operator.api.record import Record
from gpuid_operator.sinks.base import Sink, SinkError, Unavailable
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)


class MeteredSink:
    """A Sink in front of another one."""

    def __init__(self, name: str, sink: Sink, metrics: Metrics, *, builtin: bool) -> None:
        """`builtin`: it is the sink of the environment, whose exports gpuid's metrics count."""
        self._name = name
        self._sink = sink
        self._metrics = metrics
        self._builtin = builtin

    async def send(self, records: Sequence[Record]) -> None:
        """Sends records to the sink. Raises SinkError for every failure."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            await self._sink.send(records)
        except Exception as error:
            self._metrics.delivery_failures.labels(self._name).inc()
            self._count(records, self._metrics.export_failed)
            if isinstance(error, SinkError):
                raise
            _log.exception("sink raised an unexpected error", sink=self._name)
            # Without the text of the error: it may hold a secret.
            raise Unavailable(f"{type(error).__name__}: see the operator's log") from error
        self._metrics.delivery_seconds.labels(self._name).observe(loop.time() - started)
        self._metrics.records_delivered.labels(self._name).inc(len(records))
        self._count(records, self._metrics.export_succeeded)

    def _count(self, records: Sequence[Record], exported: Callable[[str, str], None]) -> None:
        """Count for each node, by the pod that it was read in."""
        if self._builtin:
            for node, source in {(record.node, record.source) for record in records}:
                exported(node, source.rpartition("/")[2])

    async def close(self) -> None:
        """Releases the sink's connections."""
        await self._sink.close()
