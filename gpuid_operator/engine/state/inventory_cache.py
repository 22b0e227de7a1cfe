"""The inventories in memory, small enough for 5,000 nodes.

The status of 8 GPUs takes 13 KB as JSON, and five times as much as objects. The cache keeps the
fields that the loops often need, the whole status as compressed JSON, and the most recently used
statuses as objects.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.resource_version import newer
from gpuid_operator.engine.state.uuid_index import UUIDIndex
from gpuid_operator.kube.inventories import InventoryMeta

UNPACKED: Final = 64
"""Number of statuses that the cache keeps as objects."""


class _Version(NamedTuple):
    uid: str
    resource_version: str


class InventoryCache:
    """All inventories by name. A newer version replaces an older one. Its methods do no I/O."""

    def __init__(self) -> None:
        self.by_uuid = UUIDIndex()
        self._inventories: dict[str, CachedInventory] = {}
        self._unpacked: OrderedDict[str, InventoryStatus] = OrderedDict()
        # Inventories that the operator cannot parse, by name.
        self._invalid: dict[str, _Version] = {}

    def __len__(self) -> int:
        return len(self._inventories)

    def __iter__(self) -> Iterator[CachedInventory]:
        return iter(list(self._inventories.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._inventories

    def get(self, name: str) -> CachedInventory | None:
        return self._inventories.get(name)

    def is_invalid(self, name: str) -> bool:
        """Whether the operator cannot parse the inventory of this name, for example because a later
        version of the operator wrote it. Nothing must be written to it."""
        return name in self._invalid

    def uids(self) -> dict[str, str]:
        """The uids of all inventories by name, with those that the operator cannot parse."""
        known = {name: version.uid for name, version in self._invalid.items()}
        return known | {cached.name: cached.uid for cached in self._inventories.values()}

    def status(self, name: str) -> InventoryStatus:
        """The whole status; an empty one where there is no such inventory."""
        if name not in self._inventories:
            return InventoryStatus()
        return self._keep(name, self.read_once(name))

    def read_once(self, name: str) -> InventoryStatus:
        """As `status`, for passes over many inventories: it does not change which statuses are
        kept as objects."""
        known, cached = self._unpacked.get(name), self._inventories.get(name)
        if known is not None:
            return known
        return InventoryStatus() if cached is None else cached.unpack()

    def is_news(self, meta: Mapping[str, Any]) -> bool:
        """Whether the version of an inventory, given by its metadata, is neither known nor older
        than the known one."""
        name, version = meta["name"], _version(meta)
        known = self._inventories.get(name)
        if known is not None and known.uid == version.uid:
            return newer(version.resource_version, than=known.resource_version)
        return self._invalid.get(name) != version

    def put_object(self, body: Mapping[str, Any]) -> bool:
        """Store an object from the API server. Returns False if this version or a later one is
        known already.

        Raises pydantic.ValidationError, once per version, for an object that the operator cannot
        parse.
        """
        name = body["metadata"]["name"]
        version = _version(body["metadata"])
        if not self.is_news(body["metadata"]):
            return False
        try:
            cached, status = CachedInventory.from_object(body)
        except ValidationError:
            self.remove(name)
            self._invalid[name] = version
            raise
        self._invalid.pop(name, None)
        self._store(name, cached)
        self._keep(name, status)
        return True

    def put_created(
        self, name: str, meta: InventoryMeta, *, labels: Mapping[str, str]
    ) -> CachedInventory:
        """Store an inventory that was just created with these labels, unless an event has brought
        it already. Returns what is known of it."""
        known = self._inventories.get(name)
        if known is None or known.uid != meta.uid:
            known = CachedInventory.created(name, meta, labels)
            self._store(name, known)
            self._unpacked.pop(name, None)
        return known

    def put_status(
        self,
        name: str,
        status: InventoryStatus,
        body: Mapping[str, Any],
        *,
        resource_version: str,
    ) -> None:
        """Store a status that was just written, given as a model and as JSON, unless an event has
        brought this version or a later one already."""
        cached = self._older(name, resource_version)
        if cached is not None:
            before = self._unpacked.get(name)
            now = cached.with_status(status, body, before=before, resource_version=resource_version)
            self._store(name, now)
            self._keep(name, status)

    def put_labels(self, name: str, labels: Mapping[str, str], *, resource_version: str) -> None:
        """Store labels that were just written, unless an event has brought this version or a later
        one already."""
        cached = self._older(name, resource_version)
        if cached is not None:
            self._inventories[name] = cached.with_labels(labels, resource_version=resource_version)

    def remove(self, name: str, *, uid: str | None = None) -> bool:
        """Forget an inventory that is gone. With `uid`, an inventory of the same name that was
        created since stays. Returns whether an inventory was removed."""
        known = self.uid(name)
        if known is None or uid not in (None, known):
            return False
        self._unpacked.pop(name, None)
        self._store(name, None)
        self._invalid.pop(name, None)
        return True

    def uid(self, name: str) -> str | None:
        """The uid of an inventory, also of one that the operator cannot parse; None where there is
        none."""
        known = self._inventories.get(name) or self._invalid.get(name)
        return known.uid if known else None

    def _store(self, name: str, cached: CachedInventory | None) -> None:
        """Store the latest version of an inventory, None where there is none any more."""
        known = self._inventories.get(name)
        if cached is None:
            self._inventories.pop(name, None)
        else:
            self._inventories[name] = cached
        before, after = (one.uuids if one else () for one in (known, cached))
        self.by_uuid.update(name, before, after)

    def _older(self, name: str, resource_version: str) -> CachedInventory | None:
        cached = self._inventories.get(name)
        if cached is not None and newer(resource_version, than=cached.resource_version):
            return cached
        return None

    def _keep(self, name: str, status: InventoryStatus) -> InventoryStatus:
        self._unpacked[name] = status
        self._unpacked.move_to_end(name)
        while len(self._unpacked) > UNPACKED:
            self._unpacked.popitem(last=False)
        return status


def _version(meta: Mapping[str, Any]) -> _Version:
    return _Version(meta.get("uid", ""), meta.get("resourceVersion", ""))
