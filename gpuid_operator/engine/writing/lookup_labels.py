"""The look-up labels of inventories, by which users find the node of a serial, a UUID or a chassis.

A status and its labels take two writes. If the second one fails, the labels are outdated until
`retry` or the next start writes them.
"""

from __future__ import annotations

from typing import Final

from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.inventory_cache import InventoryCache
from gpuid_operator.engine.writing.inventory_refresh import InventoryRefresher
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Conflict, KubeError
from gpuid_operator.kube.inventories import patch_inventory_labels
from gpuid_operator.plan.labels import lookup_changes, lookup_labels
from gpuid_operator.plan.merge_patch import merge_patch
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_ATTEMPTS: Final = 6


class LookupLabels:
    """Writes the look-up labels of inventories."""

    def __init__(
        self, client: KubeClient, *, inventories: InventoryCache, refresher: InventoryRefresher
    ) -> None:
        self._client = client
        self._inventories = inventories
        self._refresher = refresher
        self._outdated: set[str] = set()

    async def sync(self, name: str) -> None:
        """Write the labels that the status of an inventory asks for. Logs a failure."""
        written = False
        failure = "the inventory keeps changing"
        try:
            for _ in range(_ATTEMPTS):
                # What `changed` finds from now on, this attempt may not know.
                self._outdated.discard(name)
                if written := await self._write(name):
                    return
        except KubeError as error:
            failure = error.message
        finally:
            if not written:
                self._outdated.add(name)
        _log.warning("failed to write look-up labels", node=name, error=failure)

    def changed(self, name: str) -> None:
        """An inventory was found, or another client changed it; the next `retry` repairs its
        labels. Cheap while the cache has its status unpacked, as just after it was put there."""
        cached = self._inventories.get(name)
        if cached is not None and self._changes(cached):
            self._outdated.add(name)

    async def retry(self, name: str) -> None:
        """Write the labels of an inventory if the last `sync` failed, or `changed` found others
        than its status asks for."""
        if name in self._outdated:
            await self.sync(name)

    async def _write(self, name: str) -> bool:
        """Make one attempt. Returns whether the labels are up to date."""
        cached = self._inventories.get(name)
        if cached is None:
            return True
        changes = self._changes(cached)
        if not changes:
            return True
        try:
            version = await patch_inventory_labels(
                self._client, name=name, resource_version=cached.resource_version, changes=changes
            )
        except Conflict:
            await self._refresher.refresh(name)
            return False
        labels = merge_patch(cached.labels, changes)
        self._inventories.put_labels(name, labels, resource_version=version)
        return True

    def _changes(self, cached: CachedInventory) -> dict[str, str | None]:
        wanted = lookup_labels(self._inventories.status(cached.name))
        return lookup_changes(cached.labels, wanted)
