"""Lists the Nodes: whole ones at the start, and afterwards their metadata, which is a tenth of the
bytes. Only Nodes about which something changed that the operator uses are fetched whole.

what the metadata shows                                    | the Node is
-----------------------------------------------------------|--------------------------------------
the resourceVersion of the facts that are known            | as it was
a new Node, another uid, or no marks (`NodeMarks`)         | fetched
another mark of the spec                                   | fetched
GPU capacity appeared, or is gone                          | fetched
another mark of the status, and the status matters (below) | fetched
anything else                                              | as it was, except for its labels

The kubelet's heartbeat changes the mark of the status, so the status is fetched only where a report
depends on it. A read gets its Node anyway, which is never older than the container that it reads.
"""

from __future__ import annotations

from gpuid_operator.engine.core.listing import fetch_singly
from gpuid_operator.engine.core.turns import pause
from gpuid_operator.engine.reading.node_fetcher import NodeFetcher
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.resource_version import newest
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.nodes import NodeFacts, NodeMetadata, list_node_metadata, list_nodes


class NodeList:
    """Keeps the node cache complete."""

    def __init__(self, client: KubeClient, *, state: ClusterState) -> None:
        self._client = client
        self._state = state
        self._fetcher = NodeFetcher(client, state=state)

    async def run(self) -> None:
        """List all Nodes, and forget those that are gone. Raises KubeError."""
        nodes = self._state.nodes
        if not len(nodes):
            await self._list_whole()
            return
        changed = await self._list_metadata()
        if not fetch_singly(len(changed), known=len(nodes)):
            await self._list_whole()
            return
        for name in changed:
            await self._fetcher.fetch(name)

    async def _list_whole(self) -> None:
        unseen, since = self._known()
        with self._state.nodes.listing() as requested:
            async for facts in list_nodes(self._client, since=since):
                unseen.discard(facts.name)
                self._state.nodes.put(facts, requested=requested)
                await pause()
        self._forget(unseen, requested)

    async def _list_metadata(self) -> list[str]:
        """Returns the names of the Nodes to fetch."""
        unseen, since = self._known()
        changed: list[str] = []
        with self._state.nodes.listing() as requested:
            async for meta in list_node_metadata(self._client, since=since):
                unseen.discard(meta.name)
                if meta.facts is not None:
                    self._state.nodes.put(meta.facts, requested=requested)
                elif self._must_fetch(meta, requested):
                    changed.append(meta.name)
                else:
                    self._state.nodes.put_metadata(meta, requested=requested)
                await pause()
        self._forget(unseen, requested)
        return changed

    def _known(self) -> tuple[set[str], str]:
        """The names of all Nodes that are known, and the newest of their resourceVersions."""
        nodes = self._state.nodes
        return set(nodes), newest(known.facts.resource_version for _, known in nodes.items())

    def _forget(self, unseen: set[str], requested: float) -> None:
        for name in unseen:
            known = self._state.nodes.get(name)
            if known is not None and known.fetched <= requested:
                self._state.forget_node(name)

    def _must_fetch(self, meta: NodeMetadata, requested: float) -> bool:
        """Whether the Node must be fetched, as the table above says."""
        known = self._state.nodes.get(meta.name)
        if known is not None and known.fetched > requested:
            return False  # it was fetched while the list was on its way
        if known is None or known.facts.uid != meta.uid:
            return True
        if known.whole and known.facts.resource_version == meta.resource_version:
            return False
        return self._has_changed(known.facts, meta)

    def _has_changed(self, facts: NodeFacts, meta: NodeMetadata) -> bool:
        marks = facts.marks
        if marks is None or meta.marks is None or marks.spec != meta.marks.spec:
            return True
        if marks.has_capacity != meta.marks.has_capacity:
            return True
        return marks.status != meta.marks.status and self._status_matters(meta)

    def _status_matters(self, meta: NodeMetadata) -> bool:
        """Whether the status of a Node decides something before the next read fetches it: whether
        it is a GPU node at all, or what a report of a missing target says about it."""
        inventory = self._state.inventories.get(meta.name)
        if inventory is None or inventory.departed:
            return meta.may_have_gpus or self._state.may_have_gpus(meta.name)
        target = self._state.target(meta.name)
        return target is None or not target[1].ready
