"""The outbox of one sink: the history of every node to which the sink applies."""

from __future__ import annotations

from gpuid_operator.api.sinks import Sink as SinkSpec
from gpuid_operator.engine.delivery.outbox_entry import OutboxEntry, Position
from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.plan import outbox
from gpuid_operator.plan.policy import sink_filter
from gpuid_operator.plan.records import records_for


class SinkOutbox:
    """Reads what a sink still has to get from the cached statuses."""

    def __init__(self, sink: SinkSpec, *, state: ClusterState, cluster: str) -> None:
        """`cluster` is the CLUSTER_NAME of every record."""
        self._sink = sink
        self._filter = sink_filter(sink)
        self._state = state
        self._cluster = cluster

    def list_entries(self, node: str, *, after: Position | None) -> list[OutboxEntry]:
        """Returns what the node still has for the sink, oldest first; see PendingEntries."""
        inventory = self._served_inventory(node)
        if inventory is None:
            return []
        status = self._state.inventories.read_once(node)
        start = outbox.cursor(status, self._filter)
        if after is not None and after.uid == inventory.uid:
            start = max(start, after.sequence)
        return [
            OutboxEntry(
                node,
                inventory.uid,
                entry.sequence,
                tuple(
                    records_for(
                        entry,
                        sightings=self._sink.sightings,
                        inventory_uid=inventory.uid,
                        node=node,
                        cluster=self._cluster,
                    )
                ),
            )
            for entry in outbox.pending(status.history or (), self._filter, after=start)
        ]

    def serves(self, entry: OutboxEntry) -> bool:
        """Whether the sink still applies to the inventory that the entry is from."""
        inventory = self._served_inventory(entry.node)
        return inventory is not None and inventory.uid == entry.uid

    def _served_inventory(self, node: str) -> CachedInventory | None:
        """The node's inventory; None where the sink does not apply to it, or nothing may be
        delivered."""
        found = self._state.inventory_with_policy(node)
        if found is None:
            return None
        inventory, policy = found
        return inventory if self._sink in policy.sinks else None


def has_pending(inventory: CachedInventory, sink: SinkSpec) -> bool:
    """Whether the inventory has a record that the sink did not get, or may have one: a sink that
    is new to the inventory has no cursor there."""
    key = (sink.name, sink.type)
    cursor = next((cursor for cursor in inventory.cursors if cursor.sink == key), None)
    return inventory.sequence > 0 and (cursor is None or cursor.pending > 0)
