"""Writes the result of deliveries into statuses: cursors, and errors of sinks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.api.sinks import Sink as SinkSpec
from gpuid_operator.engine.core.background import Background
from gpuid_operator.engine.core.idle_gate import IdleGate
from gpuid_operator.engine.core.jitter import chance
from gpuid_operator.engine.delivery.outbox_entry import Position
from gpuid_operator.engine.writing.status_writer import Decision, StatusWriter
from gpuid_operator.plan import delivery
from gpuid_operator.plan.policy import sink_filter
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.plan.status_change import StatusChange, StatusContext
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

PARALLEL_WRITES: Final = 32
"""Most statuses that are written at the same time."""

_LONGEST_PAUSE: Final = timedelta(seconds=30)


class CursorWriter:
    """Writes for all sinks, and retries each write until it succeeds: a cursor that is lost is a
    delivery that is repeated after the next start."""

    def __init__(self, status_writer: StatusWriter, *, idle_gate: IdleGate) -> None:
        self._status_writer = status_writer
        self._idle_gate = idle_gate
        self._tasks = Background()
        self._slots = asyncio.Semaphore(PARALLEL_WRITES)
        self._turns: dict[str, asyncio.Event] = {}

    def start(
        self,
        node: str,
        decide: Decision,
        *,
        uid: str | None = None,
        done: Callable[[], None] | None = None,
    ) -> None:
        """Begins to write a change. With `uid`, the change is for that very object. Calls `done`
        when it is written, or does not apply any more."""
        self._tasks.start(self._write(node, decide, uid=uid, done=done))

    async def finish(self, *, within: float) -> bool:
        """Waits at most `within` seconds for the writes under way, and gives up the rest. Returns
        whether all of them were made."""
        return await self._tasks.finish(within=within)

    async def _write(
        self, node: str, decide: Decision, *, uid: str | None, done: Callable[[], None] | None
    ) -> None:
        failures = 0
        while True:
            try:
                async with self._turn(node):
                    await self._status_writer.write(node, decide, uid=uid)
            except Exception as error:  # whatever it is: the cursor has to advance some day
                failures += 1
                _log.warning(
                    "failed to write delivery status; retrying", node=node, error=str(error)
                )
            else:
                break
            pause = backoff(failures, chance=chance(), most=_LONGEST_PAUSE)
            await asyncio.sleep(pause.total_seconds())
        if done is not None:
            done()

    @asynccontextmanager
    async def _turn(self, node: str) -> AsyncIterator[None]:
        """Waits for a turn to write. All changes that wait for the same node share one turn, so
        that the status writer makes one write of them."""
        turn = self._turns.get(node)
        if turn is not None:
            await turn.wait()
            yield
        else:
            await self._take_slot(node)
            try:
                yield
            finally:
                self._slots.release()

    async def _take_slot(self, node: str) -> None:
        turn = self._turns[node] = asyncio.Event()
        try:
            await self._idle_gate.wait()
            await self._slots.acquire()
        finally:
            del self._turns[node]
            turn.set()


class SinkStatusWriter:
    """The DeliveryStatus of one sink."""

    def __init__(
        self, sink: SinkSpec, *, writer: CursorWriter, clock: Callable[[], datetime]
    ) -> None:
        self._filter = sink_filter(sink)
        self._writer = writer
        self._clock = clock

    def delivered(self, node: str, position: Position, *, written: Callable[[], None]) -> None:
        """Begins to write the cursor into the inventory that the position is in."""
        now = self._clock()

        def decide(previous: InventoryStatus, context: StatusContext) -> StatusChange:
            return delivery.after_delivery(
                previous, self._filter, up_to=position.sequence, now=now, context=context
            )

        self._writer.start(node, decide, uid=position.uid, done=written)

    def failed(self, node: str, *, error: str) -> None:
        """Begins to write why the sink does not accept what is pending."""
        now = self._clock()

        def decide(previous: InventoryStatus, context: StatusContext) -> StatusChange:
            return delivery.after_delivery_failure(
                previous, self._filter, error=error, now=now, context=context
            )

        self._writer.start(node, decide)
