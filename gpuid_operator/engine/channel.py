"""The loop of one sink: gathers what nodes have for it, sends it, and sees that it is noted.

Order holds within a node, and a node that is in trouble holds up no other. The loop waits for
nothing but its own sink: statuses are written beside it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from gpuid_operator.api.record import Record
from gpuid_operator.engine.secret_watch import WatchedSecrets
from gpuid_operator.plan.schedule import full_jitter
from gpuid_operator.sinks.base import RecordsRefused, Refused, Sink, SinkError
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

FIRST_PAUSE: Final = timedelta(seconds=1)
LONGEST_PAUSE: Final = timedelta(minutes=10)
SECRETS_PAUSE: Final = 60.0
"""Seconds after which a refused sink's secrets are looked at again."""

REFUSED_ALONE: Final = 8
"""Single entries that a sink refuses, while it takes none, before it counts as refusing all."""

TOLD_AFTER: Final = 3
"""Failures in a row before an outage is written to the statuses of all nodes that wait."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """The records of one history entry of one node; they are delivered together."""

    node: str
    uid: str
    sequence: int
    records: tuple[Record, ...]


class Outbox(Protocol):
    """What a channel asks of the rest of the engine."""

    def parcels(self, node: str, *, after: tuple[str, int] | None) -> list[Parcel]:
        """What the node still has for this sink, oldest first. `after` is the inventory's uid and
        the number of the last entry that was sent but may not be noted yet."""

    async def delivered(self, node: str, *, uid: str, upto: int) -> None:
        """Note in the node's inventory of this uid that the sink has every entry up to `upto`."""

    async def failed(self, node: str, *, error: str) -> None:
        """Note in the node's status why the sink does not take what waits."""


class Channel:
    """One sink and the nodes that have something for it."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        outbox: Outbox,
        secrets: WatchedSecrets,
        max_records: int,
        max_wait: timedelta,
        metrics: Metrics,
        longest_pause: timedelta = LONGEST_PAUSE,
    ) -> None:
        self.name = name
        self._sink = sink
        self._outbox = outbox
        self._secrets = secrets
        self._max_records = max_records
        self._max_wait = max_wait.total_seconds()
        self._metrics = metrics
        self._longest_pause = longest_pause
        self._due: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._sent: dict[str, tuple[str, int]] = {}
        self._told: dict[str, str] = {}
        self._blocked: dict[str, asyncio.TimerHandle] = {}
        self._carried: list[Parcel] = []
        self._refused_alone = 0
        self._notes: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._trouble: str | None = None

    def add(self, node: str) -> None:
        """The node has something for this sink."""
        if node in self._blocked:
            return
        self._due[node] = None
        self._wake.set()
        if self._trouble is not None:
            self._tell([node], self._trouble)

    def forget(self, node: str) -> None:
        """The node's inventory is gone."""
        self._due.pop(node, None)
        self._sent.pop(node, None)
        self._told.pop(node, None)
        self._carried = [parcel for parcel in self._carried if parcel.node != node]
        if timer := self._blocked.pop(node, None):
            timer.cancel()

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            while True:
                try:
                    await self._turn()
                except Exception:  # one fault must not end deliveries for good
                    _log.exception("a delivery loop stumbled", sink=self.name)
                    await asyncio.sleep(FIRST_PAUSE.total_seconds())
        finally:
            for timer in self._blocked.values():
                timer.cancel()
            await self._sink.close()

    async def finish(self) -> None:
        """Wait until what was sent is noted."""
        while self._notes:
            await asyncio.wait(self._notes)

    async def _turn(self) -> None:
        # What failed is sent again as it was: a sink that took it, and whose answer was lost,
        # knows the same batch by its key.
        batch = self._carried
        if not batch:
            await self._wake.wait()
            batch = await self._gather()
        if batch:
            await self._attempt(batch)

    async def _gather(self) -> list[Parcel]:
        """A batch of at most the sink's size, over as many nodes as it takes; when it is not full,
        it waits once for others to join."""
        batch = self._collect([])
        if batch and sum(len(parcel.records) for parcel in batch) < self._max_records:
            await asyncio.sleep(self._max_wait)
            batch = self._collect(batch)
        return batch

    def _collect(self, batch: list[Parcel]) -> list[Parcel]:
        reached = {parcel.node: (parcel.uid, parcel.sequence) for parcel in batch}
        room = self._max_records - sum(len(parcel.records) for parcel in batch)
        while self._due and room > 0:
            node = next(iter(self._due))
            after = reached.get(node) or self._sent.get(node)
            for parcel in self._outbox.parcels(node, after=after):
                if len(parcel.records) > room and batch:
                    return batch
                batch.append(parcel)
                room -= len(parcel.records)
                reached[node] = (parcel.uid, parcel.sequence)
                if room <= 0:
                    return batch  # the node stays due: it may have more
            self._due.pop(node, None)
        if not self._due:
            self._wake.clear()
        return batch

    async def _attempt(self, batch: Sequence[Parcel]) -> None:
        """Send a batch; when that fails, wait as long as is due before the next one."""
        self._refused_alone = 0
        try:
            await self._send(batch)
        except SinkError as error:
            self._failures += 1
            self._carried = [parcel for parcel in batch if self._is_open(parcel)]
            await self._pause(error)
        else:
            self._carried = []
            self._failures = 0
            self._trouble = None

    def _is_open(self, parcel: Parcel) -> bool:
        uid, sequence = self._sent.get(parcel.node, ("", 0))
        sent = parcel.uid == uid and parcel.sequence <= sequence
        return not sent and parcel.node not in self._blocked

    async def _send(self, batch: Sequence[Parcel]) -> set[str]:
        """Deliver parcels, halving what the sink refuses until each refused entry stands alone.

        Returns the nodes whose next entry was refused. Raises SinkError where the sink as a whole
        does not take anything; what it took before that is noted.
        """
        records = [record for parcel in batch for record in parcel.records]
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            await self._sink.send(records)
        except SinkError as error:
            self._metrics.delivery_failures.labels(self.name).inc()
            self._metrics.export_failure.inc()
            if not isinstance(error, RecordsRefused):
                raise
            if len(batch) == 1:
                self._block(batch[0], error)
                self._refused_alone += 1
                if self._refused_alone == REFUSED_ALONE:
                    raise  # not these records: whatever it is sent
                return {batch[0].node}
            half = len(batch) // 2
            blocked = await self._send(batch[:half])
            rest = [parcel for parcel in batch[half:] if parcel.node not in blocked]
            return blocked | (await self._send(rest) if rest else set())
        self._metrics.delivery_seconds.labels(self.name).observe(loop.time() - started)
        self._metrics.records_delivered.labels(self.name).inc(len(records))
        self._metrics.export_success.inc()
        self._refused_alone = -len(records)
        for parcel in batch:
            self._sent[parcel.node] = (parcel.uid, parcel.sequence)
            self._told.pop(parcel.node, None)
        for node in dict.fromkeys(parcel.node for parcel in batch):
            self._note(self._acknowledge(node))
        return set()

    async def _acknowledge(self, node: str) -> None:
        sent = self._sent.get(node)
        if sent is not None:
            await self._outbox.delivered(node, uid=sent[0], upto=sent[1])

    def _block(self, parcel: Parcel, error: SinkError) -> None:
        """Set a node aside whose next entry the sink refuses; it is tried again at the slow end."""
        _log.error(
            "a sink refuses a record; later ones of this node wait behind it",
            sink=self.name,
            node=parcel.node,
            record=parcel.records[0].id,
            error=error.message,
        )
        delay = self._longest_pause.total_seconds() * (0.5 + random.random() / 2)  # noqa: S311
        timer = asyncio.get_running_loop().call_later(delay, self._unblock, parcel.node)
        self._blocked[parcel.node] = timer
        self._due.pop(parcel.node, None)
        self._tell([parcel.node], f"{error.reason}: {error.message}")

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
            self._tell({parcel.node for parcel in self._carried} | self._due.keys(), words)
        chance = random.random()  # noqa: S311 - jitter, no secret
        if refused:
            await self._slow_end(self._longest_pause.total_seconds() * (0.5 + chance / 2))
            return
        delay = full_jitter(
            self._failures, chance=chance, first=FIRST_PAUSE, most=self._longest_pause
        ).total_seconds()
        await asyncio.sleep(min(max(delay, error.retry_after or 0.0), 6 * 3600.0))

    async def _slow_end(self, delay: float) -> None:
        """Wait, but no longer than until one of the sink's secrets is changed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + delay
        while (left := until - loop.time()) > 0:
            await asyncio.sleep(min(left, SECRETS_PAUSE))
            if await self._secrets.changed():
                return

    def _tell(self, nodes: Collection[str], words: str) -> None:
        for node in nodes:
            if self._told.get(node) != words:
                self._told[node] = words
                self._note(self._outbox.failed(node, error=words))

    def _note(self, writing: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(writing)
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)
