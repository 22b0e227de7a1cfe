"""The present inventories by the UUIDs of their GPUs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class SharedListener(Protocol):
    """Receives each inventory that lists, or no longer lists, a GPU that another one lists."""

    def __call__(self, uuid: str, name: str, *, listed: bool) -> None: ...


class UUIDIndex:
    """Which inventories list a GPU. Its methods do no I/O.

    Nearly every UUID is in one inventory, whose name stands alone: a set for each of 40,000 UUIDs
    would take 9 MB.
    """

    def __init__(self) -> None:
        self._names: dict[str, str | set[str]] = {}
        self.listener: SharedListener | None = None

    def names(self, uuid: str) -> frozenset[str]:
        """The names of the inventories that list this GPU."""
        names = self._names.get(uuid) or ()
        return frozenset({names} if isinstance(names, str) else names)

    def update(self, name: str, before: Collection[str], after: Collection[str]) -> None:
        """Store that an inventory lists the GPUs `after`, and no longer those `before`."""
        if before == after:
            return
        for uuid in set(before).difference(after):
            self._remove(uuid, name)
        for uuid in set(after).difference(before):
            self._add(uuid, name)

    def _add(self, uuid: str, name: str) -> None:
        names = self._names.setdefault(uuid, name)
        if names == name:
            return
        if isinstance(names, str):
            names = self._names[uuid] = {names}
        names.add(name)
        self._report(uuid, name, listed=True)

    def _remove(self, uuid: str, name: str) -> None:
        names = self._names[uuid]
        if isinstance(names, str):
            del self._names[uuid]
            return
        names.discard(name)
        if len(names) == 1:
            (self._names[uuid],) = names
        self._report(uuid, name, listed=False)

    def _report(self, uuid: str, name: str, *, listed: bool) -> None:
        if self.listener is not None:
            self.listener(uuid, name, listed=listed)
