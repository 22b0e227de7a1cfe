"""The loop of one sink: gathers a batch, sends it, and reports the result.

The records of one node are sent in order. A node whose record the sink refuses does not hold up
other nodes. The loop waits for nothing but its own sink: statuses are written beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import partial
from typing import Final

from gpuid_operator.engine.core.jitter import chance
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS, Timings
from gpuid_operator.engine.delivery.batch import Batch
from gpuid_operator.engine.delivery.due_nodes import DueNodes
from gpuid_operator.engine.delivery.error_reports import DeliveryReporter
from gpuid_operator.engine.delivery.metered_sink import MeteredSink
from gpuid_operator.engine.delivery.outbox_entry import (
    DeliveryStatus,
    OutboxEntry,
    PendingEntries,
    bisect,
    records_of,
)
from gpuid_operator.engine.delivery.recording_secrets import RecordingSecretSource
from gpuid_operator.plan.delivery_retry import (
    REFUSED_ALONE,
    is_logged,
    is_reported,
    refusal_pause,
    retry_pause,
)
from gpuid_operator.sinks.base import RecordsRefused, Refused, Sink, SinkError
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

RESTART_PAUSE: Final = timedelta(seconds=1)
"""Pause after an error that nobody foresaw."""


class SinkWorker:
    """One sink and the nodes that have something for it."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        pending: PendingEntries,
        status: DeliveryStatus,
        secrets: RecordingSecretSource,
        max_records: int,
        max_wait: timedelta,
        metrics: Metrics,
        builtin: bool = False,
        timings: Timings = DEFAULT_TIMINGS,
    ) -> None:
        self.name = name
        self._sink = MeteredSink(name, sink, metrics, builtin=builtin)
        self._secrets = secrets
        self._timings = timings
        self._due = DueNodes()
        self._batch = Batch(
            name, pending=pending, due=self._due, max_records=max_records, max_wait=max_wait
        )
        self._reporter = DeliveryReporter(status)
        self._failures = 0
        self._outage: str | None = None
        """The error that was reported, until a batch is delivered."""
        self._refused_alone = 0
        self._sending = False
        self._stopping = False

    def add(self, node: str) -> None:
        """Enqueues a node that has something for this sink."""
        if self._due.is_blocked(node):
            return
        self._due.add(node)
        if self._outage is not None:
            self._reporter.failed([node], self._outage)

    def retain(self, node: str, sequences: Collection[int]) -> None:
        """Drops the node's entries except these, which are all that its history still has."""
        self._batch.retain(node, sequences)

    def forget(self, node: str) -> None:
        """Drops a node whose inventory is gone."""
        self._due.forget(node)
        self._batch.forget(node)
        self._reporter.forget(node)

    async def run(self) -> None:
        """Delivers until it is cancelled or stopped."""
        try:
            while not self._stopping:
                try:
                    await self._deliver()
                except Exception:  # one error must not end the deliveries of this sink
                    _log.exception("sink worker failed; restarting", sink=self.name)
                    await asyncio.sleep(RESTART_PAUSE.total_seconds())
        finally:
            self._due.close()
            await self._sink.close()

    def stop(self) -> bool:
        """Starts nothing more. Returns whether a request to the sink is under way, after which
        `run` returns; otherwise the loop waits, and has to be cancelled."""
        self._stopping = True
        return self._sending

    async def _deliver(self) -> None:
        """One batch, or another attempt at one."""
        if not self._batch:
            await self._batch.fill()
        self._batch.drop_unserved()
        error = await self._attempt() if self._batch else None
        if error is not None and not self._stopping:
            await self._back_off(error)

    async def _attempt(self) -> SinkError | None:
        """Sends the batch. Returns why the sink does not accept it."""
        self._refused_alone = 0
        self._sending = True
        try:
            await self._send(list(self._batch))
        except SinkError as error:
            self._failures += 1
            self._batch.drop_blocked()
            return error
        finally:
            self._sending = False
        self._batch.clear()
        self._failures = 0
        self._outage = None
        return None

    async def _send(self, batch: Sequence[OutboxEntry]) -> set[str]:
        """Sends entries, and bisects what the sink refuses down to the refused record.

        Returns the nodes whose next record was refused. Raises SinkError where the sink as a whole
        accepts nothing; what it accepted before is reported.
        """
        records = records_of(batch)
        try:
            await self._sink.send(records)
        except RecordsRefused as error:
            if len(records) > 1:
                return await self._send_parts(batch)
            self._block(batch[0], error)
            self._refused_alone += 1
            if self._refused_alone == REFUSED_ALONE:
                raise  # the cause is not in the records
            return {batch[0].node}
        self._refused_alone = -len(records)
        for node, position in self._batch.mark_sent(batch).items():
            written = partial(self._batch.cursor_written, node, position)
            self._reporter.delivered(node, position, written=written)
        return set()

    async def _send_parts(self, batch: Sequence[OutboxEntry]) -> set[str]:
        first, second = bisect(batch)
        blocked = await self._send(first)
        rest = [entry for entry in second if entry.node not in blocked]
        return blocked | (await self._send(rest) if rest else set())

    def _block(self, entry: OutboxEntry, error: SinkError) -> None:
        """Sets a node aside whose next record the sink refuses."""
        _log.error(
            "sink refused a record; later records of the node wait",
            sink=self.name,
            node=entry.node,
            record=entry.records[0].id,
            error=error.message,
        )
        pause = refusal_pause(chance=chance(), longest=self._timings.sink_max_backoff)
        self._due.block(entry.node, pause.total_seconds(), then=self.add)
        self._reporter.failed([entry.node], _text(error))

    async def _back_off(self, error: SinkError) -> None:
        """Reports the error as far as is due, and waits before the next attempt."""
        refused = isinstance(error, Refused | RecordsRefused)
        if is_logged(self._failures, refused=refused):
            log = _log.error if refused else _log.warning
            detail = {"detail": error.detail} if error.detail else {}
            log(
                "failed to deliver records",
                sink=self.name,
                error=_text(error),
                failures=self._failures,
                **detail,
            )
        if is_reported(self._failures, refused=refused):
            self._outage = _text(error)
            self._reporter.failed(self._batch.nodes | set(self._due), self._outage)
        longest = self._timings.sink_max_backoff
        if refused:
            pause = refusal_pause(chance=chance(), longest=longest, retry_after=error.retry_after)
            await self._wait_for_secrets(pause)
        else:
            pause = retry_pause(
                self._failures, chance=chance(), longest=longest, retry_after=error.retry_after
            )
            await asyncio.sleep(pause.total_seconds())

    async def _wait_for_secrets(self, pause: timedelta) -> None:
        """Waits, but only until one of the sink's Secrets changes."""
        loop = asyncio.get_running_loop()
        until = loop.time() + pause.total_seconds()
        period = self._timings.sink_secret_check.total_seconds()
        while not await self._secrets.changed():
            left = until - loop.time()
            if left <= 0:
                return
            await asyncio.sleep(min(left, period))


def _text(error: SinkError) -> str:
    return f"{error.reason}: {error.message}"
