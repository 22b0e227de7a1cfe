"""The loop of one sink, with the sink, the statuses and the Secrets in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gpuid_operator.api.record import Record
from gpuid_operator.engine.delivery.outbox_entry import OutboxEntry, Position
from gpuid_operator.engine.delivery.recording_secrets import RecordingSecretSource
from gpuid_operator.engine.delivery.sink_worker import SinkWorker
from gpuid_operator.sinks.base import RecordsRefused
from gpuid_operator.telemetry.metrics import Metrics

Answer = Callable[[list[str]], Exception | None]
"""The error of the sink for the records with these ids; None: it accepts them."""


def record(node: str, sequence: int, part: int = 0) -> Record:
    return Record(
        id=f"{node}.{sequence}.0.{part}",
        event="GPUAdded",
        cluster="prod",
        node=node,
        machine="i-1",
        source="ns/pod",
        chassis="unknown",
        gpu="1",
        time=datetime(2026, 6, 7, tzinfo=UTC),
        sequence=sequence,
    )


class Harness:
    """Nodes with entries of some records each, and a sink whose answer a test sets."""

    def __init__(
        self, entries: dict[str, list[int]], *, max_records: int = 500, builtin: bool = False
    ) -> None:
        """`entries`: by node, how many records each of its entries has."""
        self.entries = entries
        self.cursors: dict[str, int] = {}
        self.errors: list[tuple[str, str]] = []
        self.served = set(entries)
        self.sent: list[tuple[float, list[str]]] = []
        """The time and the record ids of each attempt."""
        self.taken: list[str] = []
        self.answer: Answer = lambda _: None
        self.during: dict[int, Callable[[], object]] = {}
        """Called while the n-th attempt is under way."""
        self.secret = "old"
        self.closed = False
        self.metrics = Metrics()
        self.secrets = RecordingSecretSource(self)
        self.worker = SinkWorker(
            "cmdb",
            self,
            pending=self,
            status=self,
            secrets=self.secrets,
            max_records=max_records,
            max_wait=timedelta(seconds=1),
            metrics=self.metrics,
            builtin=builtin,
        )

    # The sink

    async def send(self, records: Sequence[Record]) -> None:
        ids = [one.id for one in records]
        self.sent.append((asyncio.get_running_loop().time(), ids))
        if (happens := self.during.get(len(self.sent))) is not None:
            happens()
        error = self.answer(ids)
        if error is not None:
            raise error
        self.taken += ids

    async def close(self) -> None:
        self.closed = True

    # The outbox

    def list_entries(self, node: str, *, after: Position | None) -> list[OutboxEntry]:
        if node not in self.served:
            return []
        start = max(self.cursors.get(node, 0), after.sequence if after else 0)
        return [
            OutboxEntry(node, node, number, tuple(record(node, number, n) for n in range(count)))
            for number, count in enumerate(self.entries[node], 1)
            if number > start
        ]

    def serves(self, entry: OutboxEntry) -> bool:
        return entry.node in self.served

    def delivered(self, node: str, position: Position, *, written: Callable[[], None]) -> None:
        self.cursors[node] = max(position.sequence, self.cursors.get(node, 0))
        written()

    def failed(self, node: str, *, error: str) -> None:
        self.errors.append((node, error))

    # The secrets

    async def get(self, ref: object, *, host: str | None) -> str:
        return self.secret

    async def get_all(self, ref: object, *, host: str | None) -> dict[str, str]:
        return {"key": self.secret}

    def invalidate(self) -> None:
        """Nothing is cached."""

    def join(self, node: str, counts: list[int]) -> None:
        """Another node has something for the sink."""
        self.entries[node] = counts
        self.served.add(node)
        self.worker.add(node)

    def ids(self, *nodes: str) -> list[str]:
        """The ids of all records of these nodes, in their order."""
        return [
            record(node, number, n).id
            for node in nodes
            for number, count in enumerate(self.entries[node], 1)
            for n in range(count)
        ]

    @property
    def times(self) -> list[float]:
        """When each attempt was made."""
        return [time for time, _ in self.sent]

    async def until(self, done: Callable[[], bool], *, step: float = 0.05) -> None:
        """Run the loop with all nodes until something is so; it is looked every `step` seconds."""
        for node in self.entries:
            self.worker.add(node)
        task = asyncio.create_task(self.worker.run())
        while not done():
            assert not task.done()
            await asyncio.sleep(step)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert self.closed

    def is_done(self) -> bool:
        """Whether the cursor of every node is at its last entry."""
        return self.cursors == {node: len(counts) for node, counts in self.entries.items()}

    def count(self, name: str, **labels: Any) -> float | None:
        """The value of a metric."""
        return self.metrics.registry.get_sample_value(name, labels)


def failing(errors: Sequence[Exception | None]) -> Answer:
    """One answer after the other, then none."""
    left = iter(errors)
    return lambda _: next(left, None)


def refusing(*poison: str) -> Answer:
    """Refuses every batch that has one of these records."""
    return lambda ids: RecordsRefused("422") if {*poison} & {*ids} else None
