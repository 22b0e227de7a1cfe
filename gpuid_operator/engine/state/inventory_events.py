"""The callbacks about inventories that other clients changed or deleted."""

from __future__ import annotations

from typing import Any, Protocol


class InventoryEvents(Protocol):
    """Receives what lists, watches and writes find. Its methods do not wait for anything."""

    def inventory_changed(self, body: dict[str, Any]) -> None:
        """The API server returned this inventory, which may be known already."""

    def inventory_deleted(self, name: str, uid: str) -> None:
        """The inventory with this name and uid does not exist any more."""
