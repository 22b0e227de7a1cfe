"""Delivery: which sinks apply anywhere, and one worker for each of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from gpuid_operator.api.sinks import Sink as SinkSpec
from gpuid_operator.engine.core.background import Background
from gpuid_operator.engine.core.idle_gate import IdleGate
from gpuid_operator.engine.core.options import Timings
from gpuid_operator.engine.core.turns import in_turns
from gpuid_operator.engine.delivery.cursor_writer import CursorWriter, SinkStatusWriter
from gpuid_operator.engine.delivery.recording_secrets import RecordingSecretSource
from gpuid_operator.engine.delivery.sink_outbox import SinkOutbox, has_pending
from gpuid_operator.engine.delivery.sink_worker import SinkWorker
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.writing.status_writer import StatusWriter, StatusWritten
from gpuid_operator.plan.policy import EffectivePolicy
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.sinks.registry import open_sink
from gpuid_operator.sinks.secrets import SecretSource
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

PRUNE_DELAY: Final = 1.0
"""Seconds in which requests to prune are gathered, since each looks through all inventories."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Where sinks get their credentials."""

    cluster: SecretSource
    """For sinks of policies and inventories."""
    environment: SecretSource
    """For the built-in policy's sink."""


class _SinkKey(NamedTuple):
    """Tells sinks apart that share a name: by all of their settings."""

    spec: str
    """The spec as JSON."""
    builtin: bool
    """Whether it comes from the operator's environment, with its credentials."""

    @classmethod
    def of(cls, sink: SinkSpec, policy: EffectivePolicy) -> _SinkKey:
        return cls(sink.model_dump_json(), sink.name in policy.builtin_sinks)


class _Running(NamedTuple):
    worker: SinkWorker
    task: asyncio.Task[None]


class Delivery:
    """All sink workers. It gets each node that may have something for a sink."""

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
        self._state = state
        self._idle_gate = idle_gate
        self._secrets = secrets
        self._context = context
        self._cluster = cluster
        self._timings = timings
        self._metrics = metrics
        self._clock = clock
        self._cursors = CursorWriter(status_writer, idle_gate=idle_gate)
        self._running: dict[_SinkKey, _Running] = {}
        self._prune_timer: asyncio.TimerHandle | None = None
        self._prunes = Background()
        self._prune_lock = asyncio.Lock()
        self._asked = 0
        """How often a prune was asked for."""
        self._unwanted: set[_SinkKey] = set()
        """Sinks for which the prune under way has found no node so far."""
        self._closed = False
        status_writer.add_listener(self._written)

    def enqueue(self, name: str) -> None:
        """Enqueues the node with the workers of the sinks that did not get all of its records."""
        found = self._state.inventory_with_policy(name)
        if found is None or self._closed:
            return
        inventory, policy = found
        for sink in policy.sinks:
            if has_pending(inventory, sink):
                self._worker(sink, _SinkKey.of(sink, policy)).add(name)

    def forget(self, name: str) -> None:
        """Drops a node whose inventory is gone."""
        for worker, _ in self._running.values():
            worker.forget(name)

    def prune_soon(self) -> None:
        """Prunes within PRUNE_DELAY, once for all requests until then. Other sinks may be in force
        from now on."""
        self._asked += 1
        if self._prune_timer is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._prune_timer = loop.call_later(PRUNE_DELAY, self._start_prune)

    async def prune(self) -> None:
        """Ends the workers of sinks that apply nowhere any more."""
        async with self._prune_lock:
            asked, self._unwanted = self._asked, set(self._running)
            # Nearly all inventories share the policy of another one.
            seen: dict[int, EffectivePolicy] = {}
            async for inventory in in_turns(self._state.inventories):
                if not self._unwanted:
                    break
                policy = self._state.effective_policy(inventory.name, inventory)
                if id(policy) not in seen:
                    seen[id(policy)] = policy
                    self._unwanted -= {_SinkKey.of(sink, policy) for sink in policy.sinks}
            if self._asked == asked:  # or the next prune decides on what is in force by now
                self._end(self._unwanted)
            self._unwanted = set()

    def count_pending(self) -> None:
        """Updates the metric of pending records."""
        pending: Counter[str] = Counter(dict.fromkeys(self._names(), 0))
        for inventory in self._state.inventories:
            for cursor in inventory.cursors:
                pending[cursor.name] += cursor.pending
        for name, count in pending.items():
            self._metrics.records_pending.labels(name).set(count)

    async def close(self, *, within: float) -> None:
        """Starts no more requests to sinks; waits at most `within` seconds until those under way
        have ended and their results are written."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        self._closed = True
        self._cancel_prune()
        await self._prunes.finish(within=0)
        self._idle_gate.disable()
        for worker, task in self._running.values():
            if not worker.stop():
                task.cancel()
        tasks = [task for _, task in self._running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=within / 2)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=within / 4)
        if not await self._cursors.finish(within=until - loop.time()):
            _log.warning("failed to write all cursors in time; their records are sent again")

    def _start_prune(self) -> None:
        self._prune_timer = None
        self._prunes.start(self.prune())

    def _end(self, keys: set[_SinkKey]) -> None:
        for key in keys:
            worker, task = self._running.pop(key)
            task.cancel()
            if worker.name not in self._names():
                self._metrics.forget_sink(worker.name)

    def _cancel_prune(self) -> None:
        if self._prune_timer is not None:
            self._prune_timer.cancel()
            self._prune_timer = None

    def _names(self) -> set[str]:
        return {worker.name for worker, _ in self._running.values()}

    def _written(self, written: StatusWritten) -> None:
        if any(change.dropped for change in written.changes):
            kept = {entry.sequence for entry in written.after.history or ()}
            for worker, _ in self._running.values():
                worker.retain(written.name, kept)
        has_entries = any(change.entries for change in written.changes)
        if has_entries or written.before.sinks != written.after.sinks:
            self.enqueue(written.name)

    def _worker(self, sink: SinkSpec, key: _SinkKey) -> SinkWorker:
        self._unwanted.discard(key)
        if key not in self._running:
            self._metrics.add_sink(sink.name)
            worker = self._open(sink, builtin=key.builtin)
            task = asyncio.create_task(worker.run(), name=f"sink {sink.name}")
            self._running[key] = _Running(worker, task)
        return self._running[key].worker

    def _open(self, sink: SinkSpec, *, builtin: bool) -> SinkWorker:
        source = self._secrets.environment if builtin else self._secrets.cluster
        secrets = RecordingSecretSource(source)
        return SinkWorker(
            sink.name,
            open_sink(sink, secrets=secrets, context=self._context, builtin=builtin),
            pending=SinkOutbox(sink, state=self._state, cluster=self._cluster),
            status=SinkStatusWriter(sink, writer=self._cursors, clock=self._clock),
            secrets=secrets,
            max_records=sink.max_records,
            max_wait=sink.max_wait,
            metrics=self._metrics,
            builtin=builtin,
            timings=self._timings,
        )
