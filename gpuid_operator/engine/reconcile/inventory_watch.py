"""News of inventories that came from others: users who ask for a read or change a spec, check
runners that write results, whoever deletes one.

Most events are the echo of this process's own writes. They are told by their resourceVersion; only
what is left is read whole.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from gpuid_operator.engine.reconcile.resync import Resync
from gpuid_operator.engine.state.inventory_cache import InventoryCache
from gpuid_operator.engine.state.resource_version import newer
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Gone, KubeError, NotFound
from gpuid_operator.kube.inventories import get_inventory, watch_inventories
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

ECHO: Final = timedelta(milliseconds=100)
"""For so long an event is put aside: by then the answer to a write of our own has come, too."""

RETRY: Final = timedelta(seconds=1)
"""Pause after an inventory could not be read."""

_LONGEST_PAUSE: Final = timedelta(seconds=30)


class InventoryWatch:
    """Follows the inventories and brings in what others changed."""

    def __init__(
        self,
        client: KubeClient,
        *,
        inventories: InventoryCache,
        status_writer: StatusWriter,
        resync: Resync,
        changed: Callable[[dict[str, Any]], None],
        deleted: Callable[[str, str], None],
    ) -> None:
        """`changed` gets a whole object that another wrote; `deleted` a name and a uid."""
        self._client = client
        self._inventories = inventories
        self._status_writer = status_writer
        self._resync = resync
        self._changed = changed
        self._deleted = deleted
        self._news: dict[str, str] = {}
        self._wake = asyncio.Event()
        self.kinds_gone = asyncio.Event()
        """Set when the API server does not serve inventories any more."""

    async def follow(self) -> None:
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
                    if event.type == "DELETED":
                        self._deleted(event.metadata["name"], event.metadata["uid"])
                    elif event.type != "BOOKMARK":
                        self._news[event.metadata["name"]] = version
                        self._wake.set()
            except Gone:
                version = None
            except NotFound:
                self.kinds_gone.set()
                return
            except KubeError as error:
                failures += 1
                log = _log.warning if failures > 1 else _log.debug
                log("the watch of inventories broke off", error=error.message, failures=failures)
                pause = backoff(failures, chance=random.random(), most=_LONGEST_PAUSE)  # noqa: S311
                await asyncio.sleep(pause.total_seconds())

    async def look(self) -> None:
        """Read what others changed, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(ECHO.total_seconds())
            for name, version in list(self._news.items()):
                if self._status_writer.is_writing(name):
                    self._wake.set()  # its own write is on the way: the next round tells
                    continue
                if self._news.get(name) == version:
                    del self._news[name]
                cached = self._inventories.get(name)
                if cached is None or newer(version, than=cached.resource_version):
                    await self._read(name, version)

    async def _read(self, name: str, version: str) -> None:
        try:
            self._changed(await get_inventory(self._client, name))
        except NotFound:
            pass  # its deletion is an event of its own
        except KubeError as error:
            _log.warning("an inventory could not be read", node=name, error=error.message)
            self._news.setdefault(name, version)
            self._wake.set()
            await asyncio.sleep(RETRY.total_seconds())
