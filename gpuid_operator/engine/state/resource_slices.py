"""ResourceSlices of NVIDIA's DRA driver: what they say about each node, as far as that is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

from gpuid_operator.engine.state.object_versions import ObjectVersions
from gpuid_operator.kube.resource_slices import slice_facts
from gpuid_operator.plan.resource_slices import (
    NOTHING_PUBLISHED,
    PublishedGPUs,
    SliceFacts,
    published_gpus,
)


class ResourceSliceCache:
    """The slices of each node. Its methods do no I/O.

    Each method that stores something returns the names of the nodes about which the slices say
    something else than before. A slice that is written again with the same devices changes
    nothing.
    """

    def __init__(self) -> None:
        # None: a slice of no single node.
        self._slices: dict[str, SliceFacts | None] = {}
        self._versions: ObjectVersions[str] = ObjectVersions()
        self._by_node: dict[str, tuple[str, ...]] = {}
        # What the last complete pools of a node said.
        self._published: dict[str, PublishedGPUs] = {}
        self._unread: set[str] = set()
        self._listed = False

    def of(self, node: str) -> PublishedGPUs | None:
        """What the slices say about a node; None while that is not known."""
        if node in self._published:
            return self._published[node]
        return NOTHING_PUBLISHED if self._listed and node not in self._by_node else None

    def gpu_nodes(self) -> set[str]:
        """The names of the nodes for which devices are published."""
        return {name for name, published in self._published.items() if published.has_devices}

    def changed_since_read(self, node: str) -> bool:
        """Whether the slices have said something else since the last read of a node began."""
        return node in self._unread

    def read_begins(self, node: str) -> None:
        """A read of this node begins now."""
        self._unread.discard(node)

    @contextmanager
    def listing(self) -> Iterator[dict[str, str]]:
        """List all slices in this context. Yields the versions that are known before, by name."""
        with self._versions.listing():
            yield {name: self._versions[name] for name in self._slices}

    def listed(self, names: Set[str], *, known: Mapping[str, str]) -> set[str]:
        """A list is complete, and has these slices. `known` comes from `listing`."""
        self._listed = True
        changed: set[str] = set()
        for name in known.keys() - names:
            if self._versions.remove_unlisted(name, known[name]):
                changed |= self._store(name, None, exists=False)
        return changed

    def take(self, body: Mapping[str, Any], *, deleted: bool) -> set[str]:
        """Store the slice of a list or of an event."""
        name, version = body["metadata"]["name"], body["metadata"]["resourceVersion"]
        if not self._versions.put(name, version, exists=not deleted):
            return set()
        return self._store(name, None if deleted else slice_facts(body), exists=not deleted)

    def forget_all(self) -> None:
        """Nothing is known any more: the slices are not served, or may not be listed."""
        for name in self._slices:
            self._versions.forget(name)
        self._slices.clear()
        self._by_node.clear()
        self._published.clear()
        self._unread.clear()
        self._listed = False

    def _store(self, name: str, facts: SliceFacts | None, *, exists: bool) -> set[str]:
        before = self._slices.pop(name, None)
        if exists:
            self._slices[name] = facts
        nodes = {one.node for one in (before, facts) if one is not None}
        return set() if before == facts else {node for node in nodes if self._update(node, name)}

    def _update(self, node: str, changed: str) -> bool:
        """Decide again what the slices of a node say. Returns whether that is something else."""
        names = {*self._by_node.get(node, ()), changed}
        slices = {
            name: facts
            for name in names
            if (facts := self._slices.get(name)) is not None and facts.node == node
        }
        before = self.of(node)
        if slices:
            self._by_node[node] = tuple(slices)
            published = published_gpus(slices.values())
            if published is not None:
                self._published[node] = published
        else:
            self._by_node.pop(node, None)
            self._published.pop(node, None)
            self._unread.discard(node)
        now = self.of(node)
        if now == before:
            return False
        if self._listed and slices:
            self._unread.add(node)
        return True
