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
from gpuid_operator.engine.background import Background
from gpuid_operator.engine.backlog import Backlog
from gpuid_operator.engine.channel import Channel
from gpuid_operator.engine.commit import Change, Committer, Written
from gpuid_operator.engine.fleet import Fleet
from gpuid_operator.engine.held import Held, Inventories
from gpuid_operator.engine.parcel import Parcel
from gpuid_operator.engine.secret_watch import WatchedSecrets
from gpuid_operator.plan import outbox
from gpuid_operator.plan import status as plan
from gpuid_operator.plan.outcome import Outcome, Terms
from gpuid_operator.plan.policy import Force, outlet
from gpuid_operator.plan.records import records_for
from gpuid_operator.plan.schedule import backoff
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
        inventories: Inventories,
        fleet: Fleet,
        committer: Committer,
        backlog: Backlog,
        secrets: Secrets,
        context: SinkContext,
        cluster: str,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._inventories = inventories
        self._fleet = fleet
        self._committer = committer
        self._backlog = backlog
        self._secrets = secrets
        self._context = context
        self._cluster = cluster
        self._metrics = metrics
        self._clock = clock
        self._channels: dict[_Key, tuple[Channel, asyncio.Task[None]]] = {}
        self._notes = Background()
        self._writing = asyncio.Semaphore(PARALLEL_NOTES)
        self._turns: dict[str, asyncio.Event] = {}
        self._closed = False
        committer.watch(self._written)

    def consider(self, name: str) -> None:
        """Hand the node to the channels of the sinks that still have to get something."""
        held = self._inventories.get(name)
        if held is None or self._closed or self._fleet.in_doubt(held):
            return
        force = self._fleet.force(name, held)
        cursors = {cursor[:2]: cursor for cursor in held.cursors}
        for sink in force.sinks:
            known = cursors.get((sink.name, sink.type.value))
            if held.sequence and (known is None or known[3]):
                self._channel(sink, builtin=sink.name in force.builtin_sinks).add(name)

    def forget(self, name: str) -> None:
        """The node's inventory is gone."""
        for channel, _ in self._channels.values():
            channel.forget(name)

    def prune(self) -> None:
        """End the channels of sinks that are in force nowhere any more."""
        wanted: set[_Key] = set()
        for held in self._inventories:
            force = self._fleet.force(held.name, held)
            wanted |= {_key(sink, force) for sink in force.sinks}
        for key in self._channels.keys() - wanted:
            channel, task = self._channels.pop(key)
            task.cancel()
            if channel.name not in {other.name for other, _ in self._channels.values()}:
                self._metrics.forget_sink(channel.name)

    def count_pending(self) -> None:
        """Bring the metric of what is pending up to date."""
        pending: Counter[str] = Counter(dict.fromkeys(self._names(), 0))
        for held in self._inventories:
            for name, _, _, waiting in held.cursors:
                pending[name] += waiting
        for name, count in pending.items():
            self._metrics.records_pending.labels(name).set(count)

    async def close(self, *, within: float) -> None:
        """Begin no more sends; see for at most `within` seconds that those under way end, and that
        what was sent is noted."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        self._closed = True
        self._backlog.close()
        for channel, task in self._channels.values():
            if not channel.stop():
                task.cancel()
        tasks = [task for _, task in self._channels.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=within / 2)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=within / 4)
        if not await self._notes.finish(within=until - loop.time()):
            _log.warning("some deliveries were not noted in time; they are sent again")

    def _names(self) -> set[str]:
        return {channel.name for channel, _ in self._channels.values()}

    def _written(self, written: Written) -> None:
        if any(outcome.dropped for outcome in written.outcomes):
            kept = {entry.sequence for entry in written.after.history or ()}
            for channel, _ in self._channels.values():
                channel.revise(written.name, kept)
        if any(outcome.entries for outcome in written.outcomes) or (
            written.before.sinks != written.after.sinks
        ):
            self.consider(written.name)

    def _channel(self, sink: SinkSpec, *, builtin: bool) -> Channel:
        key = (sink.model_dump_json(), builtin)
        known = self._channels.get(key)
        if known is not None:
            return known[0]
        source = self._secrets.environment if builtin else self._secrets.cluster
        secrets = WatchedSecrets(source)
        channel = Channel(
            sink.name,
            open_sink(sink, secrets=secrets, context=self._context),
            outbox=_SinkOutbox(self, sink),
            secrets=secrets,
            max_records=sink.max_records,
            max_wait=sink.max_wait,
            metrics=self._metrics,
        )
        task = asyncio.create_task(channel.run(), name=f"sink {sink.name}")
        self._channels[key] = (channel, task)
        return channel

    def parcels(self, node: str, sink: SinkSpec, *, after: tuple[str, int] | None) -> list[Parcel]:
        """What the node still has for the sink, oldest first."""
        held = self._inventories.get(node)
        if held is None or not self._is_in_force(sink, held):
            return []
        status = self._inventories.status(node)
        way = outlet(sink)
        start = outbox.cursor(status, way)
        if after is not None and after[0] == held.uid:
            start = max(start, after[1])
        found = []
        for entry in outbox.pending(status.history or (), way, after=start):
            records = records_for(
                entry,
                sightings=sink.sightings,
                inventory_uid=held.uid,
                node=held.name,
                cluster=self._cluster,
            )
            found.append(Parcel(node, held.uid, entry.sequence, tuple(records)))
        return found

    def serves(self, parcel: Parcel, sink: SinkSpec) -> bool:
        """Whether the sink is in force for the inventory that the parcel is from."""
        held = self._inventories.get(parcel.node)
        return held is not None and held.uid == parcel.uid and self._is_in_force(sink, held)

    def _is_in_force(self, sink: SinkSpec, held: Held) -> bool:
        return sink in self._fleet.force(held.name, held).sinks

    def note(self, node: str, change: Change, *, uid: str | None = None) -> None:
        """Have written what became of a delivery."""
        self._notes.start(self._note(node, change, uid=uid))

    async def _note(self, node: str, change: Change, *, uid: str | None) -> None:
        """Write it, for as long as it takes."""
        tries = 0
        while True:
            tries += 1
            try:
                async with self._turn(node):
                    await self._committer.commit(node, change, uid=uid)
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
            await self._backlog.gone()
            await self._writing.acquire()
        finally:
            del self._turns[node]
            turn.set()
        try:
            yield
        finally:
            self._writing.release()

    def acknowledgement(self, sink: SinkSpec, *, upto: int) -> Change:
        way, now = outlet(sink), self._clock()

        def change(previous: InventoryStatus, terms: Terms) -> Outcome:
            return plan.acknowledged(previous, way, upto=upto, now=now, terms=terms)

        return change

    def failure(self, sink: SinkSpec, *, error: str) -> Change:
        way, now = outlet(sink), self._clock()

        def change(previous: InventoryStatus, terms: Terms) -> Outcome:
            return plan.delivery_failed(previous, way, error=error, now=now, terms=terms)

        return change


class _SinkOutbox:
    """What a channel sees of the delivery."""

    def __init__(self, delivery: Delivery, sink: SinkSpec) -> None:
        self._delivery = delivery
        self._sink = sink

    def parcels(self, node: str, *, after: tuple[str, int] | None) -> list[Parcel]:
        return self._delivery.parcels(node, self._sink, after=after)

    def serves(self, parcel: Parcel) -> bool:
        return self._delivery.serves(parcel, self._sink)

    def delivered(self, node: str, *, uid: str, upto: int) -> None:
        change = self._delivery.acknowledgement(self._sink, upto=upto)
        self._delivery.note(node, change, uid=uid)

    def failed(self, node: str, *, error: str) -> None:
        self._delivery.note(node, self._delivery.failure(self._sink, error=error))


def _key(sink: SinkSpec, force: Force) -> _Key:
    return (sink.model_dump_json(), sink.name in force.builtin_sinks)
