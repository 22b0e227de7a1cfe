"""One inventory in memory: its metadata, what the loops often need of its status, and the rest
compressed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

import orjson

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
from gpuid_operator.kube.inventories import InventoryMeta
from gpuid_operator.plan.conditions import ConditionUpdate, find, shown
from gpuid_operator.plan.consistency import consistent
from gpuid_operator.plan.expectation import Hardware
from gpuid_operator.plan.labels import Pair
from gpuid_operator.plan.ownership import foreign_checks
from gpuid_operator.plan.quarantine import Identifiers
from gpuid_operator.plan.resource_slices import NOT_FROM_SLICES, FromSlices
from gpuid_operator.plan.status import request_token
from gpuid_operator.plan.unrecorded import has_unrecorded_results

NO_SPEC: Final = InventorySpec()
"""The spec of nearly every inventory. All inventories without a spec share this object."""


T = TypeVar("T")


@lru_cache(maxsize=1024)
def _shared(value: T) -> T:
    """An equal value that other inventories have already, if there is one: most nodes of a fleet
    have the same hardware and the same conditions."""
    return value


class SinkCursor(NamedTuple):
    """How much of a node's history a sink has received."""

    name: str
    type: str
    delivered: int
    """Sequence of the newest entry that the sink has received."""
    pending: int
    """Number of entries that the sink has not received yet."""

    @property
    def sink(self) -> tuple[str, str]:
        """Name and type, which together identify the sink."""
        return self.name, self.type


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedInventory:
    """One version of an inventory. A newer version is another CachedInventory."""

    name: str
    uid: str
    resource_version: str
    generation: int
    packed_labels: bytes
    """All labels, as compressed JSON: those of a full history take as much as 12 KB as objects."""
    managed: bool
    """Whether the operator created the object, and may therefore delete it."""
    request: str | None = None
    """The token of the annotation requestedAt."""
    spec: InventorySpec = NO_SPEC
    foreign_checks: frozenset[str] = frozenset()
    """Names of the checks whose results another instance writes."""

    # From the status

    packed: bytes = b""
    """The whole status, as compressed JSON; empty where there is none."""
    state: InventoryState | None = None
    """None where no status has been written yet."""
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
    identifiers: tuple[Identifiers, ...] | None = None
    """Those of each GPU, in order; None before the first successful read."""
    quarantines: tuple[str, ...] = ()
    """Names of the quarantines that the GPUs are marked with."""
    hardware: Hardware | None = None
    """The facts that a policy can expect; None before the first successful read."""
    as_expected: ConditionUpdate | None = None
    """The condition AsExpected; None where there is none."""
    unique: ConditionUpdate | None = None
    """The condition Unique; None where there is none."""
    slices: FromSlices = NOT_FROM_SLICES
    """The part of the status that comes from ResourceSlices."""
    checks: tuple[CheckStatus, ...] = ()
    """Last results of the checks, without their output."""
    unsettled: bool = False
    """Whether history or conditions lack a result of a check (`has_unrecorded_results`)."""
    cursors: tuple[SinkCursor, ...] = ()

    @classmethod
    def from_object(cls, body: Mapping[str, Any]) -> tuple[CachedInventory, InventoryStatus]:
        """Read an API object; its status is given as well. Raises pydantic.ValidationError for one
        that the CRD would refuse."""
        found = Inventory.from_object(dict(body))
        status = consistent(found.status)
        stored = (body.get("status") or {}) if status is found.status else status.to_json()
        cached = cls(
            name=found.name,
            uid=found.uid,
            resource_version=found.resource_version,
            generation=found.generation,
            packed_labels=_packed(found.labels),
            managed=_managed(found.labels),
            request=request_token(found.annotations.get(REQUESTED_AT, "")) or None,
            spec=NO_SPEC if found.spec == NO_SPEC else found.spec,
            foreign_checks=foreign_checks(body["metadata"], manager=MANAGER)
            if status.checks
            else frozenset(),
        )
        version = found.resource_version
        return cached.with_status(status, stored, resource_version=version), status

    @classmethod
    def created(cls, name: str, meta: InventoryMeta, labels: Mapping[str, str]) -> CachedInventory:
        """An inventory that the operator has just created with these labels."""
        return cls(
            name=name,
            uid=meta.uid,
            resource_version=meta.resource_version,
            generation=meta.generation,
            packed_labels=_packed({**labels, MANAGED_BY_LABEL: MANAGER}),
            managed=True,
        )

    def with_labels(self, labels: Mapping[str, str], *, resource_version: str) -> CachedInventory:
        """The version that has these labels."""
        return replace(
            self,
            packed_labels=_packed(labels),
            managed=_managed(labels),
            resource_version=resource_version,
        )

    def with_status(
        self,
        status: InventoryStatus,
        body: Mapping[str, Any],
        *,
        resource_version: str,
        before: InventoryStatus | None = None,
    ) -> CachedInventory:
        """The version that has this status, given as a model and as JSON. `before` is the status of
        this version, if it is at hand: most writes change no GPU."""
        ready = find(status.conditions, ConditionType.READY)
        checks = tuple(
            check.model_copy(update={"stdout": None, "stderr": None})
            for check in status.checks or ()
        )
        of_gpus = {} if _same_gpus(before, status) else self._of_gpus(status)
        return replace(
            self,
            resource_version=resource_version,
            packed=_packed(body),
            state=status.state,
            sequence=status.sequence,
            policy=status.policy or "",
            handled_request=status.last_handled_request,
            read_container=status.source.container_id if status.source else None,
            last_read=status.last_read_time,
            last_change=status.last_change_time,
            ready=ready is not None and ready.status is ConditionStatus.TRUE,
            suspended=ready is not None and ready.reason == "Suspended",
            observed_generation=status.observed_generation or 0,
            node=status.node,
            **of_gpus,
            as_expected=_shared(shown(status.conditions, ConditionType.AS_EXPECTED)),
            unique=_shared(shown(status.conditions, ConditionType.UNIQUE)),
            slices=_shared(FromSlices.of(status)),
            checks=checks,
            unsettled=has_unrecorded_results(
                checks, find(status.conditions, ConditionType.CHECKS_PASSED)
            ),
            cursors=tuple(
                SinkCursor(sink.name, sink.type, sink.delivered_sequence, sink.pending)
                for sink in status.sinks or ()
            ),
        )

    def _of_gpus(self, status: InventoryStatus) -> dict[str, Any]:
        """The fields that follow from the GPUs and their driver."""
        identifiers: tuple[Identifiers, ...] | None = None
        if status.gpus is not None:
            identifiers = tuple(map(Identifiers.of, status.gpus))
        if identifiers == self.identifiers:
            identifiers = self.identifiers  # the index of UUIDs shares these strings
        names = {name for gpu in status.gpus or () for name in gpu.quarantines or ()}
        return {
            "identifiers": identifiers,
            "quarantines": tuple(sorted(names)),
            "hardware": _shared(Hardware.of(status.gpus, status.driver_version)),
        }

    def unpack(self) -> InventoryStatus:
        """The whole status."""
        if not self.packed:
            return InventoryStatus()
        return InventoryStatus.model_validate(orjson.loads(zlib.decompress(self.packed)))

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the object."""
        labels: dict[str, str] = orjson.loads(zlib.decompress(self.packed_labels))
        return labels

    @property
    def has_open_request(self) -> bool:
        """Whether no read has answered the last `requestedAt` yet."""
        return self.request != self.handled_request

    @property
    def pairs(self) -> tuple[Pair, ...] | None:
        """(chassis, serial) of each GPU; None before the first successful read."""
        if self.identifiers is None:
            return None
        return tuple((gpu.chassis, gpu.serial) for gpu in self.identifiers)

    @property
    def uuids(self) -> tuple[str, ...]:
        """The UUIDs of the GPUs; none of a departed node."""
        if self.departed:
            return ()
        return tuple(gpu.uuid for gpu in self.identifiers or () if gpu.uuid)

    @property
    def departed(self) -> bool:
        """Whether the status says that the node is gone."""
        return self.state is InventoryState.DEPARTED


def _same_gpus(before: InventoryStatus | None, after: InventoryStatus) -> bool:
    if before is None:
        return False
    return (before.gpus, before.driver_version) == (after.gpus, after.driver_version)


def _packed(value: Mapping[str, Any]) -> bytes:
    return zlib.compress(orjson.dumps(value), 1)


def _managed(labels: Mapping[str, str]) -> bool:
    return labels.get(MANAGED_BY_LABEL) == MANAGER
