"""Delivery: which sinks are in force anywhere, a channel for each, and their notes in status."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.api.sinks import Sink as SinkSpec
from gpuid_operator.engine.core.background import Background
from gpuid_operator.engine.core.idle_gate import IdleGate
from gpuid_operator.engine.core.options import Timings
from gpuid_operator.engine.delivery.outbox_entry import OutboxEntry
from gpuid_operator.engine.delivery.recording_secrets import RecordingSecretSource
from gpuid_operator.engine.delivery.sink_worker import SinkWorker
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.inventory_cache import CachedInventory
from gpuid_operator.engine.writing.status_writer import Decision, StatusWriter, StatusWritten
from gpuid_operator.plan import delivery, outbox
from gpuid_operator.plan.policy import EffectivePolicy, sink_filter
from gpuid_operator.plan.records import records_for
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.plan.status_change import StatusChange, StatusContext
from gpuid_operator.sinks.registry import SinkContext, open_sink
from gpuid_operator.sinks.secrets import SecretSource
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

PARALLEL_NOTES: Final = 32
"""Statuses that are written at a time to note deliveries."""

_LONGEST_PAUSE: Final = timedelta(seconds=30)

_Key = tuple[str, bool]
"""A sink's spec as JSON, and whether it is the environment's."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Where sinks get their credentials."""

    cluster: SecretSource
    """For sinks of policies and inventories."""
    environment: SecretSource
    """For the built-in policy's sink."""


class Delivery:
    """All channels. Nodes are handed to it when something may be due for a sink."""

    def __init__(
        self,
        *,
        state: ClusterState,
        status_writer: StatusWriter,
        idle_gate: IdleGate,
        secrets: Secrets,
        context: SinkContext,
        cluster: str,
        timings: Timings,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._inventories = state.inventories
        self._state = state
        self._status_writer = status_writer
        self._idle_gate = idle_gate
        self._secrets = secrets
        self._context = context
        self._cluster = cluster
        self._timings = timings
        self._metrics = metrics
        self._clock = clock
        self._workers: dict[_Key, tuple[SinkWorker, asyncio.Task[None]]] = {}
        self._notes = Background()
        self._writing = asyncio.Semaphore(PARALLEL_NOTES)
        self._turns: dict[str, asyncio.Event] = {}
        self._closed = False
        status_writer.add_listener(self._written)

    def enqueue(self, name: str) -> None:
        """Hand the node to the channels of the sinks that still have to get something."""
        cached = self._inventories.get(name)
        if cached is None or self._closed or self._state.skip_reason(name) is not None:
            return
        effective = self._state.effective_policy(name, cached)
        cursors = {cursor.sink: cursor for cursor in cached.cursors}
        for sink in effective.sinks:
            known = cursors.get((sink.name, sink.type.value))
            if cached.sequence and (known is None or known.pending):
                self._worker(sink, builtin=sink.name in effective.builtin_sinks).add(name)

    def forget(self, name: str) -> None:
        """The node's inventory is gone."""
        for worker, _ in self._workers.values():
            worker.forget(name)

    def prune(self) -> None:
        """End the channels of sinks that are in force nowhere any more."""
        wanted: set[_Key] = set()
        for cached in self._inventories:
            effective = self._state.effective_policy(cached.name, cached)
            wanted |= {_key(sink, effective) for sink in effective.sinks}
        for key in self._workers.keys() - wanted:
            worker, task = self._workers.pop(key)
            task.cancel()
            if worker.name not in {other.name for other, _ in self._workers.values()}:
                self._metrics.forget_sink(worker.name)

    def count_pending(self) -> None:
        """Bring the metric of what is pending up to date."""
        pending: Counter[str] = Counter(dict.fromkeys(self._names(), 0))
        for cached in self._inventories:
            for cursor in cached.cursors:
                pending[cursor.name] += cursor.pending
        for name, count in pending.items():
            self._metrics.records_pending.labels(name).set(count)

    async def close(self, *, within: float) -> None:
        """Begin no more sends; see for at most `within` seconds that those under way end, and that
        what was sent is noted."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        self._closed = True
        self._idle_gate.close()
        for worker, task in self._workers.values():
            if not worker.stop():
                task.cancel()
        tasks = [task for _, task in self._workers.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=within / 2)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=within / 4)
        if not await self._notes.finish(within=until - loop.time()):
            _log.warning("some deliveries were not noted in time; they are sent again")

    def _names(self) -> set[str]:
        return {worker.name for worker, _ in self._workers.values()}

    def _written(self, written: StatusWritten) -> None:
        if any(change.dropped for change in written.changes):
            kept = {entry.sequence for entry in written.after.history or ()}
            for worker, _ in self._workers.values():
                worker.revise(written.name, kept)
        if any(change.entries for change in written.changes) or (
            written.before.sinks != written.after.sinks
        ):
            self.enqueue(written.name)

    def _worker(self, sink: SinkSpec, *, builtin: bool) -> SinkWorker:
        key = (sink.model_dump_json(), builtin)
        known = self._workers.get(key)
        if known is not None:
            return known[0]
        source = self._secrets.environment if builtin else self._secrets.cluster
        secrets = RecordingSecretSource(source)
        worker = SinkWorker(
            sink.name,
            open_sink(sink, secrets=secrets, context=self._context),
            outbox=_SinkOutbox(self, sink),
            secrets=secrets,
            max_records=sink.max_records,
            max_wait=sink.max_wait,
            metrics=self._metrics,
            timings=self._timings,
        )
        task = asyncio.create_task(worker.run(), name=f"sink {sink.name}")
        self._workers[key] = (worker, task)
        return worker

    def outbox_entries(
        self, node: str, sink: SinkSpec, *, after: tuple[str, int] | None
    ) -> list[OutboxEntry]:
        """What the node still has for the sink, oldest first."""
        cached = self._inventories.get(node)
        if cached is None or not self._is_in_force(sink, cached):
            return []
        status = self._inventories.status(node)
        way = sink_filter(sink)
        start = outbox.cursor(status, way)
        if after is not None and after[0] == cached.uid:
            start = max(start, after[1])
        found = []
        for entry in outbox.pending(status.history or (), way, after=start):
            records = records_for(
                entry,
                sightings=sink.sightings,
                inventory_uid=cached.uid,
                node=cached.name,
                cluster=self._cluster,
            )
            found.append(OutboxEntry(node, cached.uid, entry.sequence, tuple(records)))
        return found

    def serves(self, outbox_entry: OutboxEntry, sink: SinkSpec) -> bool:
        """Whether the sink is in force for the inventory that the parcel is from."""
        cached = self._inventories.get(outbox_entry.node)
        return (
            cached is not None
            and cached.uid == outbox_entry.uid
            and self._is_in_force(sink, cached)
        )

    def _is_in_force(self, sink: SinkSpec, cached: CachedInventory) -> bool:
        return sink in self._state.effective_policy(cached.name, cached).sinks

    def note(self, node: str, decide: Decision, *, uid: str | None = None) -> None:
        """Have written what became of a delivery."""
        self._notes.start(self._note(node, decide, uid=uid))

    async def _note(self, node: str, decide: Decision, *, uid: str | None) -> None:
        """Write it, for as long as it takes."""
        tries = 0
        while True:
            tries += 1
            try:
                async with self._turn(node):
                    await self._status_writer.write(node, decide, uid=uid)
                return
            except Exception as error:  # whatever it was: the cursor has to move some day
                _log.warning("a delivery was not noted yet", node=node, error=str(error))
                chance = random.random()  # noqa: S311 - jitter, no secret
                pause = backoff(tries, chance=chance, most=_LONGEST_PAUSE)
                await asyncio.sleep(pause.total_seconds())

    @asynccontextmanager
    async def _turn(self, node: str) -> AsyncIterator[None]:
        """Wait for a turn to write; whatever else waits for the same node goes along, so that the
        notes of several sinks become one write."""
        turn = self._turns.get(node)
        if turn is not None:
            await turn.wait()
            yield
            return
        turn = self._turns[node] = asyncio.Event()
        try:
            await self._idle_gate.gone()
            await self._writing.acquire()
        finally:
            del self._turns[node]
            turn.set()
        try:
            yield
        finally:
            self._writing.release()

    def acknowledgement(self, sink: SinkSpec, *, up_to: int) -> Decision:
        way, now = sink_filter(sink), self._clock()

        def decide(previous: InventoryStatus, context: StatusContext) -> StatusChange:
            return delivery.after_delivery(previous, way, up_to=up_to, now=now, context=context)

        return decide

    def failure(self, sink: SinkSpec, *, error: str) -> Decision:
        way, now = sink_filter(sink), self._clock()

        def decide(previous: InventoryStatus, context: StatusContext) -> StatusChange:
            return delivery.after_delivery_failure(
                previous, way, error=error, now=now, context=context
            )

        return decide


class _SinkOutbox:
    """What a channel sees of the delivery."""

    def __init__(self, delivery: Delivery, sink: SinkSpec) -> None:
        self._delivery = delivery
        self._sink = sink

    def outbox_entries(self, node: str, *, after: tuple[str, int] | None) -> list[OutboxEntry]:
        return self._delivery.outbox_entries(node, self._sink, after=after)

    def serves(self, outbox_entry: OutboxEntry) -> bool:
        return self._delivery.serves(outbox_entry, self._sink)

    def delivered(self, node: str, *, uid: str, up_to: int) -> None:
        decide = self._delivery.acknowledgement(self._sink, up_to=up_to)
        self._delivery.note(node, decide, uid=uid)

    def failed(self, node: str, *, error: str) -> None:
        self._delivery.note(node, self._delivery.failure(self._sink, error=error))


def _key(sink: SinkSpec, effective: EffectivePolicy) -> _Key:
    return (sink.model_dump_json(), sink.name in effective.builtin_sinks)
