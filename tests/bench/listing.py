"""When each node is in what users look at: the list of GPUInventories, and the Node's labels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.bench.api import INVENTORIES, METADATA, NODES, TABLE, Reader

PREFIX: Final = "gpuid.github.com/"
"""Prefix of gpuid's Node labels, which both programs write."""


class Listing:
    """Fills while a program runs. Times are those of `time.monotonic`."""

    def __init__(self) -> None:
        self.listed: dict[str, float] = {}
        """Nodes whose inventory was ready, and since when."""
        self.delivered: set[str] = set()
        """Nodes whose inventory says that everything is delivered."""
        self.labelled: dict[str, float] = {}
        """Nodes with labels of gpuid, and since when."""
        self.changed = time.monotonic()
        """When the last event came."""
        self._columns: list[str] = []

    def inventory_event(self, event: dict[str, Any]) -> None:
        """An event of a watch of inventories as tables; only the first event names the columns."""
        table = event["object"]
        if definitions := table.get("columnDefinitions"):
            self._columns = [one["name"] for one in definitions]
        self.changed = time.monotonic()
        for row in table.get("rows", ()):
            cells = dict(zip(self._columns, row["cells"], strict=True))
            name = cells["Name"]
            if event["type"] == "DELETED" or cells["Ready"] != "True":
                self.delivered.discard(name)
                continue
            self.listed.setdefault(name, self.changed)
            if cells["Delivered"] == "True":
                self.delivered.add(name)
            else:
                self.delivered.discard(name)

    def node_event(self, event: dict[str, Any]) -> None:
        """An event of a watch of the metadata of nodes."""
        metadata = event["object"]["metadata"]
        if any(key.startswith(PREFIX) for key in metadata.get("labels", ())):
            self.changed = time.monotonic()
            self.labelled.setdefault(metadata["name"], self.changed)


@contextmanager
def listing(reader: Reader) -> Iterator[Listing]:
    """Watch both from now on. Raises BenchError if a watch failed."""
    seen = Listing()
    start = [
        (INVENTORIES, TABLE, f"{INVENTORIES}?includeObject=None", seen.inventory_event),
        (NODES, METADATA, NODES, seen.node_event),
    ]
    watches = []
    try:
        for path, accept, query, handle in start:
            since = reader.version(path)
            watches.append(reader.watch(query, since=since, accept=accept, handle=handle))
        yield seen
        reader.check()
    finally:
        for one in watches:
            one.stop()
