"""The full look at the cluster: at the start, and every ten minutes for what no event told.

An event source never reports what vanished while it was not watching.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Conflict, KubeError, ListExpired, NotFound
from gpuid_operator.kube.inventories import delete_inventory, inventory_pages
from gpuid_operator.kube.nodes import list_nodes
from gpuid_operator.kube.pods import TargetPod, list_pods
from gpuid_operator.kube.policies import list_policies
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

MAX_DEPARTED: Final = 5_000
"""Inventories of departed nodes that are kept even if `retention` would keep more."""

_ATTEMPTS: Final = 3


class Resync:
    """Lists pods, nodes, inventories and policies into what is known."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        policies_changed: Callable[[], None],
        inventory_found: Callable[[dict[str, Any]], None],
        inventory_gone: Callable[[str, str], None],
        clock: Callable[[], datetime],
    ) -> None:
        """`inventory_found` gets each inventory as the API gives it, to be taken over where it is
        news; `inventory_gone` the name and uid of one that is not there any more."""
        self._client = client
        self._state = state
        self._inventories = state.inventories
        self._policies_changed = policies_changed
        self._inventory_found = inventory_found
        self._inventory_gone = inventory_gone
        self._clock = clock
        self.inventories_version: str | None = None
        """The resourceVersion of the last list of inventories."""

    async def run(self) -> set[str]:
        """Look at everything; the names of all nodes that have, or had, anything to do with GPUs.

        Pods come before nodes: the facts of a node are then later than the container seen there.
        Raises KubeError.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._policies()
                await self._pods()
                await self._nodes()
                await self.list_inventories()
                break
            except ListExpired as error:
                if attempt == _ATTEMPTS:
                    raise
                _log.info("a listing took too long; again", error=error.message)
        with_gpus = {name for name, known in self._state.nodes.items() if known.facts.gpu_capacity}
        return with_gpus | self._state.pods.nodes() | {cached.name for cached in self._inventories}

    async def catch_up(self) -> set[str]:
        """Look at pods and policies; the names of the nodes for which that is news.

        Raises KubeError.
        """
        changed = await self._policies()
        nodes = await self._pods()
        if changed:
            nodes |= self._state.pods.nodes() | {cached.name for cached in self._inventories}
        return nodes

    async def _policies(self) -> bool:
        changed = self._state.policies.take_all(await list_policies(self._client))
        if changed:
            self._policies_changed()
        return changed

    async def _pods(self) -> set[str]:
        news: set[str] = set()
        for number, target in enumerate(self._state.pods.targets):
            unseen = self._state.pods.uids(number)
            async for body in list_pods(
                self._client, namespace=target.namespace, selector=target.selector
            ):
                uid = body["metadata"]["uid"]
                unseen.discard(uid)
                pod = TargetPod.from_pod(body, container=target.container)
                news |= self._state.pods.put(number, uid, pod)
            for uid in unseen:
                news |= self._state.pods.put(number, uid, None)
        return news

    async def _nodes(self) -> None:
        unseen = set(self._state.nodes)
        async for facts in list_nodes(self._client):
            unseen.discard(facts.name)
            self._state.nodes.put(facts)
        for name in unseen:
            self._state.forget_node(name)

    async def list_inventories(self) -> None:
        """Look at all inventories; whatever is news is told."""
        unseen = self._inventories.uids()
        async for page in inventory_pages(self._client):
            for body in page["items"]:
                unseen.pop(body["metadata"]["name"], None)
                self._inventory_found(body)
            self.inventories_version = page["metadata"]["resourceVersion"]
        for name, uid in unseen.items():
            self._inventory_gone(name, uid)

    async def expire(self) -> list[str]:
        """Delete what we created for nodes that left long ago, if every sink has all of it; the
        names of what was deleted."""
        departed = sorted(
            (
                cached
                for cached in self._inventories
                if cached.departed
                and cached.managed
                and cached.name not in self._state.nodes
                and self._state.skip_reason(cached.name) is None
            ),
            key=lambda cached: cached.last_change or self._clock(),
        )
        surplus = len(departed) - MAX_DEPARTED
        deleted = []
        for number, cached in enumerate(departed):
            if not self._delivered(cached) or not (number < surplus or self._is_old(cached)):
                continue
            try:
                await delete_inventory(
                    self._client,
                    name=cached.name,
                    uid=cached.uid,
                    resource_version=cached.resource_version,
                )
            except (Conflict, NotFound):
                continue  # it moved; the next time tells
            except KubeError as error:
                _log.warning("an old inventory was not deleted", node=cached.name, error=str(error))
                break
            self._inventories.remove(cached.name, uid=cached.uid)
            deleted.append(cached.name)
            _log.info("the inventory of a departed node was deleted", node=cached.name)
        return deleted

    def _delivered(self, cached: CachedInventory) -> bool:
        """Whether no sink in force waits for anything of this inventory."""
        cursors = {cursor.sink: cursor.pending for cursor in cached.cursors}
        sinks = self._state.effective_policy(cached.name, cached).sinks
        return all(cursors.get((sink.name, sink.type.value)) == 0 for sink in sinks)

    def _is_old(self, cached: CachedInventory) -> bool:
        retention = self._state.effective_policy(cached.name, cached).retention
        return cached.last_change is not None and self._clock() - cached.last_change >= retention
