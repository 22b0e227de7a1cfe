"""Watches inventories for changes of other writers: users who request a read, change a spec or
delete an object, and check runners that write results.

Most events are echoes of this process's own writes. Their resourceVersion identifies them; only
the other inventories are fetched.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from gpuid_operator.engine.core.background import Loop
from gpuid_operator.engine.core.jitter import chance
from gpuid_operator.engine.reconcile.resync import Resync
from gpuid_operator.engine.state.inventory_cache import InventoryCache
from gpuid_operator.engine.state.inventory_events import InventoryEvents
from gpuid_operator.engine.state.resource_version import newer
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Gone, KubeError, NotFound
from gpuid_operator.kube.inventories import get_inventory, watch_inventories
from gpuid_operator.kube.watch import MetadataEvent
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

ECHO: Final = timedelta(milliseconds=100)
"""Each event waits this long: by then the response to a write of this process has come, too."""

RETRY: Final = timedelta(seconds=1)
"""Pause after a fetch that failed."""

_MAX_BACKOFF: Final = timedelta(seconds=30)


class InventoryWatch:
    """Follows the inventories and reports what others changed."""

    def __init__(
        self,
        client: KubeClient,
        *,
        inventories: InventoryCache,
        status_writer: StatusWriter,
        resync: Resync,
        events: InventoryEvents,
    ) -> None:
        """`events` receives each inventory that another writer changed or deleted."""
        self._client = client
        self._inventories = inventories
        self._status_writer = status_writer
        self._resync = resync
        self._events = events
        self._changed: dict[str, str] = {}
        """The newest resourceVersion of each inventory that an event named."""
        self._wake = asyncio.Event()
        self.kinds_gone = asyncio.Event()
        """Set by each attempt to watch that finds no inventories served. The reader of the event
        looks whether the CRDs are gone, or were for a moment, and clears it."""

    def loops(self) -> list[Loop]:
        return [self._follow, self._fetch_changes]

    async def _follow(self) -> None:
        """Watch until cancelled."""
        version = self._resync.inventories_version
        failures = 0
        while True:
            try:
                if version is None:
                    await self._resync.list_inventories()
                    version = self._resync.inventories_version
                    continue
                async for event in watch_inventories(self._client, version=version):
                    failures = 0
                    version = event.metadata["resourceVersion"]
                    self._take(event)
            except Gone:
                version = None
            except KubeError as error:
                if isinstance(error, NotFound):
                    version = None  # the objects may go with their kind, without an event
                    self.kinds_gone.set()
                failures += 1
                # API servers restart: a single interruption is normal.
                log = _log.warning if failures > 1 else _log.debug
                log("inventory watch disconnected", error=error.message, failures=failures)
                pause = backoff(failures, chance=chance(), most=_MAX_BACKOFF)
                await asyncio.sleep(pause.total_seconds())

    def _take(self, event: MetadataEvent) -> None:
        meta = event.metadata
        if event.type == "DELETED":
            self._events.inventory_deleted(meta["name"], meta["uid"])
        elif event.type != "BOOKMARK":
            self._changed[meta["name"]] = meta["resourceVersion"]
            self._wake.set()

    async def _fetch_changes(self) -> None:
        """Fetch what others changed, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(ECHO.total_seconds())
            for name, version in list(self._changed.items()):
                if self._status_writer.is_writing(name):
                    self._wake.set()  # the response to the write shows whether this is its echo
                    continue
                if self._changed.get(name) == version:
                    del self._changed[name]
                cached = self._inventories.get(name)
                if cached is None or newer(version, than=cached.resource_version):
                    await self._fetch(name, version)

    async def _fetch(self, name: str, version: str) -> None:
        try:
            self._events.inventory_changed(await get_inventory(self._client, name))
        except NotFound:
            pass  # its deletion is an event of its own
        except KubeError as error:
            _log.warning("failed to get inventory", node=name, error=error.message)
            self._changed.setdefault(name, version)
            self._wake.set()
            await asyncio.sleep(RETRY.total_seconds())
