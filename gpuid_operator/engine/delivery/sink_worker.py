"""The loop of one sink: gathers what nodes have for it, sends it, and sees that it is noted.

Order holds within a node, and a node that is in trouble holds up no other. The loop waits for
nothing but its own sink: statuses are written beside it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Final

from gpuid_operator.api.record import Record
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS, Timings
from gpuid_operator.engine.delivery.outbox_entry import OutboxEntry, PendingEntries, bisect
from gpuid_operator.engine.delivery.recording_secrets import RecordingSecretSource
from gpuid_operator.engine.delivery.reporter import DeliveryReporter
from gpuid_operator.plan.schedule import full_jitter
from gpuid_operator.sinks.base import RecordsRefused, Refused, Sink, SinkError, Unavailable
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

FIRST_PAUSE: Final = timedelta(seconds=1)
LONGEST_WISH: Final = timedelta(hours=6)
"""Longest Retry-After that is honoured."""

REFUSED_ALONE: Final = 8
"""Single entries that a sink refuses, while it takes none, before it counts as refusing all."""

TOLD_AFTER: Final = 3
"""Failures in a row before an outage is written to the statuses of all nodes that wait."""


class SinkWorker:
    """One sink and the nodes that have something for it."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        outbox: PendingEntries,
        secrets: RecordingSecretSource,
        max_records: int,
        max_wait: timedelta,
        metrics: Metrics,
        timings: Timings = DEFAULT_TIMINGS,
    ) -> None:
        self.name = name
        self._sink = sink
        self._outbox = outbox
        self._secrets = secrets
        self._max_records = max_records
        self._max_wait = max_wait.total_seconds()
        self._metrics = metrics
        self._timings = timings
        self._due: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._sent: dict[str, tuple[str, int]] = {}
        self._blocked: dict[str, asyncio.TimerHandle] = {}
        self._carried: list[OutboxEntry] = []
        """The batch that is gathered, under way, or to be sent again."""
        self._refused_alone = 0
        self._notes = DeliveryReporter(outbox)
        self._failures = 0
        self._trouble: str | None = None
        self._sending = False
        self._stopping = False

    def add(self, node: str) -> None:
        """The node has something for this sink."""
        if node in self._blocked:
            return
        self._due[node] = None
        self._wake.set()
        if self._trouble is not None:
            self._notes.failed([node], self._trouble)

    def revise(self, node: str, kept: Collection[int]) -> None:
        """Of the node's history only these entries are left: what gave way is not sent any more,
        for what followed from it may have given way, too."""
        self._carried = [p for p in self._carried if p.node != node or p.sequence in kept]

    def forget(self, node: str) -> None:
        """The node's inventory is gone."""
        self._due.pop(node, None)
        self._sent.pop(node, None)
        self._notes.forget(node)
        self._carried = [
            outbox_entry for outbox_entry in self._carried if outbox_entry.node != node
        ]
        if timer := self._blocked.pop(node, None):
            timer.cancel()

    def _slow(self) -> float:
        """Seconds until what was refused for good is tried again: the slow end, with jitter."""
        most = self._timings.sink_max_backoff.total_seconds()
        return most * (0.5 + random.random() / 2)  # noqa: S311

    async def run(self) -> None:
        """Deliver until cancelled or stopped."""
        try:
            while not self._stopping:
                try:
                    await self._turn()
                except Exception:  # one fault must not end deliveries for good
                    _log.exception("a delivery loop stumbled", sink=self.name)
                    await asyncio.sleep(FIRST_PAUSE.total_seconds())
        finally:
            for timer in self._blocked.values():
                timer.cancel()
            await self._sink.close()

    def stop(self) -> bool:
        """Begin nothing more; whether something is on its way to the sink, after which `run`
        ends. Otherwise it is waiting and has to be cancelled."""
        self._stopping = True
        return self._sending

    async def _turn(self) -> None:
        # What failed is sent again as it was: a sink that took it, and whose answer was lost,
        # knows the same batch by its key.
        if not self._carried:
            await self._wake.wait()
            await self._gather()
        self._carried = [
            outbox_entry for outbox_entry in self._carried if self._outbox.serves(outbox_entry)
        ]
        if self._carried:
            await self._attempt()

    async def _gather(self) -> None:
        """A batch of at most the sink's size, over as many nodes as it takes; when it is not full,
        it waits once for others to join."""
        self._collect()
        if self._carried and self._room > 0:
            await asyncio.sleep(self._max_wait)
            self._collect()

    @property
    def _room(self) -> int:
        return self._max_records - sum(len(outbox_entry.records) for outbox_entry in self._carried)

    def _collect(self) -> None:
        reached = {
            outbox_entry.node: (outbox_entry.uid, outbox_entry.sequence)
            for outbox_entry in self._carried
        }
        room = self._room
        while self._due and room > 0:
            node = next(iter(self._due))
            after = reached.get(node) or self._sent.get(node)
            for outbox_entry in self._open_parcels(node, after=after):
                if len(outbox_entry.records) > room and self._carried:
                    return
                self._carried.append(outbox_entry)
                room -= len(outbox_entry.records)
                if room <= 0:
                    return  # the node stays due: it may have more
            self._due.pop(node, None)
        if not self._due:
            self._wake.clear()

    def _open_parcels(self, node: str, *, after: tuple[str, int] | None) -> list[OutboxEntry]:
        try:
            return self._outbox.outbox_entries(node, after=after)
        except Exception:  # it concerns this node; the next re-sync asks again
            _log.exception("what waits for a sink cannot be read", sink=self.name, node=node)
            return []

    async def _attempt(self) -> None:
        """Send the batch; when that fails, wait as long as is due before the next attempt."""
        self._refused_alone = 0
        self._sending = True
        try:
            await self._send(self._carried)
        except SinkError as error:
            self._sending = False
            self._failures += 1
            self._carried = [
                outbox_entry for outbox_entry in self._carried if self._is_open(outbox_entry)
            ]
            if not self._stopping:
                await self._pause(error)
        else:
            self._carried = []
            self._failures = 0
            self._trouble = None
        finally:
            self._sending = False

    def _is_open(self, outbox_entry: OutboxEntry) -> bool:
        uid, sequence = self._sent.get(outbox_entry.node, ("", 0))
        sent = outbox_entry.uid == uid and outbox_entry.sequence <= sequence
        return not sent and outbox_entry.node not in self._blocked

    async def _send(self, batch: Sequence[OutboxEntry]) -> set[str]:
        """Deliver parcels, halving what the sink refuses until each refused record stands alone.

        Returns the nodes whose next record was refused. Raises SinkError where the sink as a whole
        does not take anything; what it took before that is noted.
        """
        try:
            await self._hand_over(
                [record for outbox_entry in batch for record in outbox_entry.records]
            )
        except RecordsRefused as error:
            parts = bisect(batch)
            if parts is None:
                self._block(batch[0], error)
                self._refused_alone += 1
                if self._refused_alone == REFUSED_ALONE:
                    raise  # not these records: whatever it is sent
                return {batch[0].node}
            first, second = parts
            blocked = await self._send(first)
            rest = [outbox_entry for outbox_entry in second if outbox_entry.node not in blocked]
            return blocked | (await self._send(rest) if rest else set())
        sent = {
            outbox_entry.node: (outbox_entry.uid, outbox_entry.sequence)
            for outbox_entry in batch
            if outbox_entry.is_end
        }
        self._sent |= sent
        for node, (uid, sequence) in sent.items():
            self._notes.delivered(node, uid=uid, up_to=sequence)
        return set()

    async def _hand_over(self, records: Sequence[Record]) -> None:
        """Give records to the sink. Raises SinkError, whatever goes wrong."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            await self._sink.send(records)
        except Exception as error:
            self._metrics.delivery_failures.labels(self.name).inc()
            self._metrics.export_failure.inc()
            if isinstance(error, SinkError):
                raise
            _log.exception("a sink failed in a way that is not foreseen", sink=self.name)
            # Not the error's own words: nobody has seen to it that they hold no secret.
            raise Unavailable(f"{type(error).__name__}: see the operator's log") from error
        self._metrics.delivery_seconds.labels(self.name).observe(loop.time() - started)
        self._metrics.records_delivered.labels(self.name).inc(len(records))
        self._metrics.export_success.inc()
        self._refused_alone = -len(records)

    def _block(self, outbox_entry: OutboxEntry, error: SinkError) -> None:
        """Set a node aside whose next entry the sink refuses; it is tried again at the slow end."""
        _log.error(
            "a sink refuses a record; later ones of this node wait behind it",
            sink=self.name,
            node=outbox_entry.node,
            record=outbox_entry.records[0].id,
            error=error.message,
        )
        timer = asyncio.get_running_loop().call_later(
            self._slow(), self._unblock, outbox_entry.node
        )
        self._blocked[outbox_entry.node] = timer
        self._due.pop(outbox_entry.node, None)
        self._notes.failed([outbox_entry.node], f"{error.reason}: {error.message}")

    def _unblock(self, node: str) -> None:
        self._blocked.pop(node, None)
        self.add(node)

    async def _pause(self, error: SinkError) -> None:
        """Wait before the next attempt: full jitter, what the sink asks for, or the slow end."""
        refused = isinstance(error, Refused | RecordsRefused)
        words = f"{error.reason}: {error.message}"
        log = _log.error if refused else _log.warning
        if self._failures == 1 or refused or self._failures % 10 == 0:
            fields = {"detail": error.detail} if error.detail else {}
            log(
                "a sink does not take records",
                sink=self.name,
                error=words,
                failures=self._failures,
                **fields,
            )
        if refused or self._failures >= TOLD_AFTER:
            self._trouble = words
            self._notes.failed({p.node for p in self._carried} | self._due.keys(), words)
        wish = min(error.retry_after or 0.0, LONGEST_WISH.total_seconds())
        if refused:
            await self._slow_end(max(self._slow(), wish))
            return
        chance = random.random()  # noqa: S311 - jitter, no secret
        delay = full_jitter(
            self._failures, chance=chance, first=FIRST_PAUSE, most=self._timings.sink_max_backoff
        )
        await asyncio.sleep(max(delay.total_seconds(), wish))

    async def _slow_end(self, delay: float) -> None:
        """Wait, but no longer than until one of the sink's secrets is another than it was given."""
        loop = asyncio.get_running_loop()
        until = loop.time() + delay
        while not await self._secrets.changed():
            left = until - loop.time()
            if left <= 0:
                return
            await asyncio.sleep(min(left, self._timings.sink_secret_check.total_seconds()))
