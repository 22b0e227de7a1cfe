"""The look-up labels of inventories, by which users find the node of a serial, a UUID or a chassis.

A status and its labels take two writes. If the second one fails, the labels are outdated until
`retry` or the next start writes them.
"""

from __future__ import annotations

from typing import Final

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
        self._outdated.add(name)
        try:
            for _ in range(_ATTEMPTS):
                if await self._write(name):
                    self._outdated.discard(name)
                    return
            failure = "the inventory keeps changing"
        except KubeError as error:
            failure = error.message
        _log.warning("failed to write look-up labels", node=name, error=failure)

    def changed(self, name: str) -> None:
        """Another client changed the inventory; the next `retry` looks at its labels."""
        self._outdated.add(name)

    async def retry(self, name: str) -> None:
        """Write the labels of an inventory if the last `sync` failed, or another client changed
        the inventory since."""
        if name in self._outdated:
            await self.sync(name)

    async def _write(self, name: str) -> bool:
        """Make one attempt. Returns whether the labels are up to date."""
        cached = self._inventories.get(name)
        if cached is None:
            return True
        wanted = lookup_labels(self._inventories.status(name))
        changes = lookup_changes(cached.labels, wanted)
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
