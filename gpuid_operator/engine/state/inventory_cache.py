"""The inventories in memory, small enough for 5,000 nodes.

A status of 8 GPUs is 13 KB of JSON and five times that as objects. What the loops look at often is
kept as it is; the whole status as compressed JSON, with the most recently used ones unpacked.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson
from pydantic import ValidationError

from gpuid_operator.api.inventory import (
    CheckStatus,
    ConditionStatus,
    ConditionType,
    Inventory,
    InventorySpec,
    InventoryState,
    InventoryStatus,
    NodeInfo,
)
from gpuid_operator.api.meta import MANAGED_BY_LABEL, MANAGER, REQUESTED_AT
from gpuid_operator.api.values import truncate
from gpuid_operator.kube.inventories import InventoryMeta
from gpuid_operator.plan.checks import is_recorded
from gpuid_operator.plan.conditions import MAX_CONDITION_MESSAGE, checks_passed, find
from gpuid_operator.plan.labels import Pair
from gpuid_operator.plan.status import request_token

UNPACKED: Final = 128
"""Statuses that are kept unpacked."""

NO_SPEC: Final = InventorySpec()
"""The spec of nearly every inventory: what users gave none is this very object."""


class SinkCursor(NamedTuple):
    """How far one sink has come with the history of a node."""

    name: str
    type: str
    delivered: int
    """Number of the newest entry that the sink has."""
    pending: int
    """How many entries it still has to get."""

    @property
    def sink(self) -> tuple[str, str]:
        """Name and type: what a cursor belongs to."""
        return self.name, self.type


@dataclass(slots=True)
class CachedInventory:
    """One inventory: the object's metadata and what of its status is looked at often."""

    name: str
    uid: str
    resource_version: str
    generation: int
    labels: dict[str, str]
    request: str | None
    """The token of the annotation requestedAt."""
    spec: InventorySpec
    packed: bytes
    """The status, as compressed JSON."""
    state: InventoryState | None = None
    sequence: int = 0
    policy: str = ""
    handled_request: str | None = None
    read_container: str | None = None
    last_read: datetime | None = None
    last_change: datetime | None = None
    ready: bool = False
    suspended: bool = False
    """Whether the status says that reads are suspended."""
    observed_generation: int = 0
    node: NodeInfo | None = None
    pairs: tuple[Pair, ...] | None = None
    """(chassis, serial) of each GPU; None where no good read was made yet."""
    checks: tuple[CheckStatus, ...] = ()
    """Last results of the checks, without their output."""
    foreign_checks: frozenset[str] = frozenset()
    """Names of those whose results another instance writes."""
    checks_said: tuple[str, str] | None = None
    """Reason and message of the condition ChecksPassed."""
    cursors: tuple[SinkCursor, ...] = ()

    @property
    def managed(self) -> bool:
        """Whether the operator created the object, and may therefore delete it."""
        return self.labels.get(MANAGED_BY_LABEL) == MANAGER

    @property
    def unsettled(self) -> bool:
        """Whether a check has another result than history and conditions say, as after a run by
        another instance."""
        condition = checks_passed(self.checks)
        said = None
        if condition is not None:
            said = condition.reason, truncate(condition.message, MAX_CONDITION_MESSAGE)
        return said != self.checks_said or not all(map(is_recorded, self.checks))

    @property
    def departed(self) -> bool:
        return self.state is InventoryState.DEPARTED


class InventoryCache:
    """All inventories by name; what is newer replaces what is older."""

    def __init__(self) -> None:
        self._held: dict[str, CachedInventory] = {}
        self._unpacked: OrderedDict[str, InventoryStatus] = OrderedDict()
        # Those that cannot be understood: uid and resourceVersion by name.
        self._invalid: dict[str, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[CachedInventory]:
        return iter(list(self._held.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def get(self, name: str) -> CachedInventory | None:
        return self._held.get(name)

    def is_invalid(self, name: str) -> bool:
        """Whether there is an inventory of this name that cannot be understood, such as one that a
        later version of the operator wrote. It must be left alone."""
        return name in self._invalid

    def uids(self) -> dict[str, str]:
        """The uids of all that are known to be there, by name."""
        invalid = {name: uid for name, (uid, _) in self._invalid.items()}
        return invalid | {cached.name: cached.uid for cached in self._held.values()}

    def status(self, name: str) -> InventoryStatus:
        """The whole status; an empty one where there is no such inventory."""
        known = self._unpacked.get(name)
        if known is not None:
            self._unpacked.move_to_end(name)
            return known
        cached = self._held.get(name)
        if cached is None:
            return InventoryStatus()
        status = InventoryStatus.model_validate(orjson.loads(zlib.decompress(cached.packed)))
        self._keep(name, status)
        return status

    def put_object(self, body: dict[str, Any]) -> bool:
        """Take over an object from the API server; False if a version as new is held already.

        Raises pydantic.ValidationError for one that cannot be understood, once for each version.
        """
        meta = body["metadata"]
        version = (meta.get("uid", ""), meta.get("resourceVersion", ""))
        if self._invalid.get(meta["name"]) == version:
            return False
        known = self._held.get(meta["name"])
        if (
            known is not None
            and known.uid == meta.get("uid")
            and not newer(meta.get("resourceVersion", ""), than=known.resource_version)
        ):
            return False
        try:
            found = Inventory.from_object(body)
        except ValidationError:
            self.remove(meta["name"])
            self._invalid[meta["name"]] = version
            raise
        self._invalid.pop(found.name, None)
        cached = CachedInventory(
            name=found.name,
            uid=found.uid,
            resource_version=found.resource_version,
            generation=found.generation,
            labels=found.labels,
            request=request_token(found.annotations.get(REQUESTED_AT, "")) or None,
            spec=NO_SPEC if found.spec == NO_SPEC else found.spec,
            packed=b"",
            foreign_checks=foreign_checks(meta, manager=MANAGER)
            if found.status.checks
            else frozenset(),
        )
        self._held[found.name] = cached
        self._take(cached, found.status, body.get("status") or {})
        self._unpacked.pop(found.name, None)
        return True

    def put_created(self, name: str, meta: InventoryMeta, *, labels: dict[str, str]) -> None:
        """Take over an inventory that was just created with these labels."""
        known = self._held.get(name)
        if known is not None and known.uid == meta.uid:
            return
        self._held[name] = cached = CachedInventory(
            name=name,
            uid=meta.uid,
            resource_version=meta.resource_version,
            generation=meta.generation,
            labels=labels | {MANAGED_BY_LABEL: MANAGER},
            request=None,
            spec=NO_SPEC,
            packed=b"",
        )
        self._take(cached, InventoryStatus(), {})

    def put_status(
        self, name: str, status: InventoryStatus, body: dict[str, Any], *, resource_version: str
    ) -> None:
        """Take over a status that was just written, as the object and as the JSON sent."""
        cached = self._held.get(name)
        if cached is None or not newer(resource_version, than=cached.resource_version):
            # The watch was faster, and has the write in what it brought.
            return
        cached.resource_version = resource_version
        self._take(cached, status, body)
        self._keep(name, status)

    def put_labels(self, name: str, labels: dict[str, str], *, resource_version: str) -> None:
        """Take over labels that were just written."""
        cached = self._held.get(name)
        if cached is not None and newer(resource_version, than=cached.resource_version):
            cached.resource_version = resource_version
            cached.labels = labels

    def remove(self, name: str, *, uid: str | None = None) -> bool:
        """Forget an inventory that is gone; one that was created since under the name stays.
        Whether one was there."""
        cached, invalid = self._held.get(name), self._invalid.get(name)
        known = cached.uid if cached else invalid[0] if invalid else None
        if known is None or uid not in (None, known):
            return False
        self._unpacked.pop(name, None)
        self._held.pop(name, None)
        self._invalid.pop(name, None)
        return True

    def _keep(self, name: str, status: InventoryStatus) -> None:
        self._unpacked[name] = status
        self._unpacked.move_to_end(name)
        while len(self._unpacked) > UNPACKED:
            self._unpacked.popitem(last=False)

    def _take(self, cached: CachedInventory, status: InventoryStatus, body: dict[str, Any]) -> None:
        cached.packed = zlib.compress(orjson.dumps(body), 1)
        cached.state = status.state
        cached.sequence = status.sequence
        cached.policy = status.policy or ""
        cached.handled_request = status.last_handled_request
        cached.read_container = status.source.container_id if status.source else None
        cached.last_read = status.last_read_time
        cached.last_change = status.last_change_time
        ready = find(status.conditions, ConditionType.READY)
        cached.ready = ready is not None and ready.status is ConditionStatus.TRUE
        cached.suspended = ready is not None and ready.reason == "Suspended"
        cached.observed_generation = status.observed_generation or 0
        cached.node = status.node
        cached.pairs = (
            None
            if status.gpus is None
            else tuple((gpu.chassis_serial, gpu.serial) for gpu in status.gpus)
        )
        cached.checks = tuple(
            check.model_copy(update={"stdout": None, "stderr": None})
            for check in status.checks or ()
        )
        said = find(status.conditions, ConditionType.CHECKS_PASSED)
        cached.checks_said = None if said is None else (said.reason, said.message)
        cached.cursors = tuple(
            SinkCursor(sink.name, sink.type, sink.delivered_sequence, sink.pending)
            for sink in status.sinks or ()
        )


def foreign_checks(meta: Mapping[str, Any], *, manager: str) -> frozenset[str]:
    """The checks whose results are another field manager's, by the object's managedFields."""
    names = set()
    for item in meta.get("managedFields") or ():
        if item.get("manager") == manager:
            continue
        checks = item.get("fieldsV1", {}).get("f:status", {}).get("f:checks", {})
        for key, fields in checks.items():
            if key.startswith("k:") and "f:passed" in fields:
                names.add(orjson.loads(key[2:])["name"])
    return frozenset(names)


def newer(version: str, *, than: str) -> bool:
    """Whether a resourceVersion is later than another of the same kind.

    They are decimal numbers that only rise (said so by the API since Kubernetes 1.35, and true of
    etcd before); where they are not, only equality is known and anything else counts as news.
    """
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than
