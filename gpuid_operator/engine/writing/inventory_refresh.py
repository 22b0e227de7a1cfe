"""Reads an inventory again after a write showed that another version is in the cluster."""

from __future__ import annotations

from typing import Final

from gpuid_operator.engine.state.inventory_cache import InventoryCache
from gpuid_operator.engine.state.inventory_events import InventoryEvents
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import ApiUnreachable, NotFound, ServerError, TooManyRequests
from gpuid_operator.kube.inventories import get_inventory
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

TRANSIENT: Final = (ApiUnreachable, ServerError, TooManyRequests)
"""Errors of an API server that may succeed at the next attempt."""


class InventoryRefresher:
    """Brings the cached version of an inventory up to date."""

    def __init__(
        self, client: KubeClient, *, inventories: InventoryCache, events: InventoryEvents
    ) -> None:
        """`events` receives what a refresh finds. The watch brings the same version later, when it
        is no news any more."""
        self._client = client
        self._inventories = inventories
        self._events = events

    async def refresh(self, name: str) -> None:
        """Read an inventory. Keeps the cached version if the server does not answer.

        Raises KubeError if the server refuses the request.
        """
        try:
            self._events.inventory_changed(await get_inventory(self._client, name))
        except NotFound:
            self.forget(name)
        except TRANSIENT as error:
            _log.debug("failed to read inventory", node=name, error=error.message)

    def forget(self, name: str) -> None:
        """Report that the cached inventory does not exist any more."""
        uid = self._inventories.uid(name)
        if uid is not None:
            self._events.inventory_deleted(name, uid)
