"""What the page shows of all clusters, and what changed since each browser was last sent it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from gpuid_operator.cli.ui.index import Index
from gpuid_operator.cli.ui.records import Record, identifiers, node_record, quarantine_record

NODES: Final = "nodes"
QUARANTINES: Final = "quarantines"
CLUSTERS: Final = "clusters"

Key = tuple[str, str, str]
"""Kind (one of the above), context, name; of a cluster, the name is the kind that it lists."""


class Subscriber:
    """One browser: what it has not been sent. Bounded by the size of the fleet, however slow it
    is, because a change of a change is one change."""

    def __init__(self) -> None:
        self._changed: dict[Key, None] = {}
        self._event = asyncio.Event()

    def mark(self, key: Key) -> None:
        self._changed[key] = None
        self._event.set()

    async def wait(self) -> None:
        """Return once something changed."""
        await self._event.wait()

    def take(self) -> list[Key]:
        """What changed since the last call."""
        changed = list(self._changed)
        self._changed.clear()
        self._event.clear()
        return changed


class FleetState:
    """Records by context and name, with the state of each cluster's lists."""

    def __init__(self, clusters: Sequence[str]) -> None:
        self.index = Index()
        self._records: dict[Key, Record] = {}
        self._subscribers: set[Subscriber] = set()
        for cluster in clusters:
            for kind in (NODES, QUARANTINES):
                self.set_cluster(cluster, kind, "loading")

    def set_cluster(self, cluster: str, kind: str, state: str, message: str = "") -> None:
        """The state of a list: loading, ready, error, forbidden or absent; with a message."""
        record = {"cluster": cluster, "kind": kind, "state": state, "message": message}
        self._set((CLUSTERS, cluster, kind), record)

    def put(self, cluster: str, kind: str, body: Mapping[str, Any]) -> None:
        """An object was listed or changed."""
        name = body["metadata"]["name"]
        if kind == QUARANTINES:
            self._set((kind, cluster, name), quarantine_record(cluster, body))
            return
        record = node_record(cluster, body)
        self.index.put((cluster, name), record["machine"], identifiers(body))
        self._set((kind, cluster, name), record)

    def remove(self, cluster: str, kind: str, name: str) -> None:
        """An object was deleted."""
        if self._records.pop((kind, cluster, name), None) is not None:
            if kind == NODES:
                self.index.drop((cluster, name))
            self._mark((kind, cluster, name))

    def keep_only(self, cluster: str, kind: str, names: set[str]) -> None:
        """A list ended: what it did not have is gone."""
        known = [key for key in self._records if key[:2] == (kind, cluster)]
        for _, _, name in known:
            if name not in names:
                self.remove(cluster, kind, name)

    def snapshot(self) -> dict[str, list[Record]]:
        """Everything."""
        shown: dict[str, list[Record]] = {CLUSTERS: [], NODES: [], QUARANTINES: []}
        for key, record in self._records.items():
            shown[key[0]].append(record)
        return shown

    def delta(self, changed: Sequence[Key]) -> dict[str, list[Any]]:
        """The records of these keys, and under `gone` the keys that have none any more."""
        shown: dict[str, list[Any]] = {CLUSTERS: [], NODES: [], QUARANTINES: [], "gone": []}
        for key in changed:
            record = self._records.get(key)
            if record is None:
                shown["gone"].append(key)
            else:
                shown[key[0]].append(record)
        return shown

    @contextmanager
    def subscription(self) -> Iterator[Subscriber]:
        """What changes from now on."""
        subscriber = Subscriber()
        self._subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)

    def _set(self, key: Key, record: Record) -> None:
        if self._records.get(key) != record:
            self._records[key] = record
            self._mark(key)

    def _mark(self, key: Key) -> None:
        for subscriber in self._subscribers:
            subscriber.mark(key)
