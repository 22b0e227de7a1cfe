"""Who is told what other clients do to inventories."""

from __future__ import annotations

from typing import Any, Protocol


class InventoryEvents(Protocol):
    """Receives each inventory that a list, a watch or a write finds. Its methods do not wait."""

    def inventory_changed(self, body: dict[str, Any]) -> None:
        """An inventory as the API server has it; no news where it is known like that."""

    def inventory_deleted(self, name: str, uid: str) -> None:
        """This very object is gone."""
