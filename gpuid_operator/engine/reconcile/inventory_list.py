"""Lists the inventories: whole ones at the start, and afterwards their metadata. Only those whose
resourceVersion is not the known one are fetched (docs/adr/0022)."""

from __future__ import annotations

from gpuid_operator.engine.core.listing import fetch_singly
from gpuid_operator.engine.core.turns import in_turns
from gpuid_operator.engine.state.inventory_cache import InventoryCache
from gpuid_operator.engine.state.inventory_events import InventoryEvents
from gpuid_operator.engine.state.resource_version import newest
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import NotFound
from gpuid_operator.kube.inventories import get_inventory, inventory_pages


class InventoryList:
    """Reports the inventories that changed or are gone."""

    def __init__(
        self, client: KubeClient, *, inventories: InventoryCache, events: InventoryEvents
    ) -> None:
        """`events` stores in the cache what it receives."""
        self._client = client
        self._inventories = inventories
        self._events = events

    async def run(self) -> str:
        """List all inventories. Returns the resourceVersion of the list, from which a watch can
        continue. Raises KubeError."""
        known = len(self._inventories.uids())
        version, changed = await self._list(only_metadata=bool(known))
        if not fetch_singly(len(changed), known=known):
            version, changed = await self._list(only_metadata=False)
        for name, uid in changed.items():
            await self._fetch(name, uid)
        return version

    async def _list(self, *, only_metadata: bool) -> tuple[str, dict[str, str]]:
        """Returns the version, and name and uid of the inventories to fetch."""
        unseen = self._inventories.uids()
        since = newest(cached.resource_version for cached in self._inventories)
        changed: dict[str, str] = {}
        version = ""
        pages = inventory_pages(self._client, since=since, only_metadata=only_metadata)
        async for page in pages:
            async for body in in_turns(page["items"]):
                meta = body["metadata"]
                unseen.pop(meta["name"], None)
                if "spec" in body or not only_metadata:
                    self._events.inventory_changed(body)
                elif self._inventories.is_news(meta):
                    changed[meta["name"]] = meta["uid"]
            version = page["metadata"]["resourceVersion"]
        for name, uid in unseen.items():
            self._events.inventory_deleted(name, uid)
        return version, changed

    async def _fetch(self, name: str, uid: str) -> None:
        try:
            self._events.inventory_changed(await get_inventory(self._client, name))
        except NotFound:
            self._events.inventory_deleted(name, uid)
