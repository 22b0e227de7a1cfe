"""The batch of one sink: gathered from the nodes that are due, and kept until the sink has it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta

from gpuid_operator.engine.delivery.due_nodes import DueNodes
from gpuid_operator.engine.delivery.outbox_entry import OutboxEntry, PendingEntries, Position
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class Batch:
    """Entries in the order in which they are sent; entries of one node follow their sequence.

    A batch that failed is sent again unchanged: a sink that accepted it, and whose answer was lost,
    recognizes it by its key.
    """

    def __init__(
        self,
        sink: str,
        *,
        pending: PendingEntries,
        due: DueNodes,
        max_records: int,
        max_wait: timedelta,
    ) -> None:
        self._sink = sink
        self._pending = pending
        self._due = due
        self._max_records = max_records
        self._max_wait = max_wait.total_seconds()
        self._entries: list[OutboxEntry] = []
        self._sent: dict[str, Position] = {}
        """The last entry of each node that the sink has, until its cursor is written. From then on
        the status alone says what the sink has: a node that leaves the sink loses its cursor."""

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __iter__(self) -> Iterator[OutboxEntry]:
        return iter(list(self._entries))

    @property
    def nodes(self) -> set[str]:
        """The nodes with an entry in the batch."""
        return {entry.node for entry in self._entries}

    async def fill(self) -> None:
        """Waits for a due node, then gathers entries of as many nodes as fit. A batch that is not
        full waits for other nodes to join, until the one that is due for longest has waited for
        `max_wait`."""
        await self._due.wait()
        until = self._due.since(self._due.first()) + self._max_wait
        self._gather()
        left = until - asyncio.get_running_loop().time()
        if self._entries and self._room > 0 and left > 0:
            await asyncio.sleep(left)
            self._gather()

    def drop_unserved(self) -> None:
        """Drops the entries of inventories to which the sink no longer applies."""
        of_inventory = {(entry.node, entry.uid): entry for entry in self._entries}
        served = {one for one, entry in of_inventory.items() if self._pending.serves(entry)}
        self._entries = [entry for entry in self._entries if (entry.node, entry.uid) in served]

    def mark_sent(self, entries: Sequence[OutboxEntry]) -> dict[str, Position]:
        """Drops these entries, which the sink has, and remembers the last one of each node until
        `cursor_written`. Returns these positions."""
        last = {entry.node: entry.position for entry in entries if entry.is_end}
        self._sent |= last
        self._entries = [
            entry for entry in self._entries if not entry.is_covered_by(last.get(entry.node))
        ]
        return last

    def cursor_written(self, node: str, position: Position) -> None:
        """Nothing will be written any more for this position: the cursor is in the status, or the
        status must not have it."""
        if self._sent.get(node) == position:
            del self._sent[node]

    def drop_blocked(self) -> None:
        """Drops the entries of blocked nodes."""
        self._entries = [entry for entry in self._entries if not self._due.is_blocked(entry.node)]

    def clear(self) -> None:
        """Drops everything: the sink has it, or its node is blocked."""
        self._entries = []

    def retain(self, node: str, sequences: Collection[int]) -> None:
        """Drops the node's entries except these, which its history still has. A sink that gets an
        entry without those that followed from it would believe what is no longer true."""
        self._entries = [
            entry for entry in self._entries if entry.node != node or entry.sequence in sequences
        ]

    def forget(self, node: str) -> None:
        """Drops a node whose inventory is gone."""
        self._sent.pop(node, None)
        self._entries = [entry for entry in self._entries if entry.node != node]

    @property
    def _room(self) -> int:
        return self._max_records - sum(len(entry.records) for entry in self._entries)

    def _gather(self) -> None:
        reached = self._sent | {entry.node: entry.position for entry in self._entries}
        room = self._room
        while self._due and room > 0:
            node = self._due.first()
            left = self._list(node, after=reached.get(node))
            for number, entry in enumerate(left, 1):
                if self._entries and len(entry.records) > room:
                    return
                self._entries.append(entry)
                room -= len(entry.records)
                if room <= 0 and number < len(left):
                    return  # the node stays due
            self._due.remove(node)

    def _list(self, node: str, *, after: Position | None) -> list[OutboxEntry]:
        try:
            return self._pending.list_entries(node, after=after)
        except Exception:  # it concerns this node only; the next resync asks again
            _log.exception(
                "failed to read the pending records of a node", sink=self._sink, node=node
            )
            return []
