"""What the ResourceSlices of NVIDIA's DRA driver say about a node, and what its status shows of it.

A pool of devices has one or several slices. When the devices change, the driver publishes them as
a new generation of the pool, one slice after the other. So only the newest generation counts, and
only when all its slices are there; before that, nothing is known.

the inventory | the slices            | the status shows
--------------|-----------------------|--------------------------------------------------------
departed      | any                   | product and driver as last known, no difference
never read    | not known             | the same as before
never read    | none                  | no product, no driver
never read    | any other             | product and driver of the slices, and that they are theirs
read          | not known             | the same as before
read          | without physical GPUs | no difference
read          | any other             | the UUIDs that only one side has, after the message of Ready

Slices have no serials, and their UUIDs are only compared: they never become GPUs of an inventory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from gpuid_operator.api.inventory import ConditionType, InventoryStatus, Source
from gpuid_operator.api.values import encoded_size, truncate
from gpuid_operator.plan.conditions import MAX_CONDITION_MESSAGE, find
from gpuid_operator.plan.summary import joined_products

_NAMED: Final = 5
"""Largest number of UUIDs of one side that a message names."""
_DIFFERENCE: Final = "ResourceSlices of gpu.nvidia.com differ: "
_SEPARATOR: Final = "; "


@dataclass(frozen=True, slots=True)
class SliceFacts:
    """The facts of one ResourceSlice of a node."""

    node: str
    pool: str
    generation: int
    """Generation of the pool."""
    count: int
    """Number of slices of this generation of the pool."""
    has_devices: bool
    uuids: tuple[str, ...]
    """UUIDs of the devices of type gpu, and of the GPUs that have MIG devices; sorted."""
    products: tuple[str, ...]
    drivers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PublishedGPUs:
    """What the ResourceSlices of a node say together."""

    has_devices: bool = False
    """Whether they publish any device: the node is a GPU node."""
    uuids: tuple[str, ...] = ()
    """UUIDs of the physical GPUs, sorted. A GPU in MIG mode is known by its MIG devices, and not
    at all while it has none."""
    product: str | None = None
    driver: str | None = None
    """Version of the driver; several are separated by commas."""


NOTHING_PUBLISHED: Final = PublishedGPUs()


class FromSlices(NamedTuple):
    """The part of a status that comes from ResourceSlices."""

    is_source: bool = False
    """Whether product and driver come from the slices."""
    product: str | None = None
    driver: str | None = None
    difference: str = ""
    """The UUIDs that only the slices or only the inventory has, in words; empty if there are
    none."""

    @classmethod
    def of(cls, status: InventoryStatus) -> FromSlices:
        """What a status shows."""
        ready = find(status.conditions, ConditionType.READY)
        difference = _difference_in(ready.message) if ready is not None else ""
        if status.source is None or not status.source.resource_slices:
            return cls(difference=difference)
        return cls(True, status.product, status.driver_version, difference)

    def facts(self) -> dict[str, Any]:
        """The fields of the status of an inventory that was never read."""
        return {
            "source": Source(resource_slices=True) if self.is_source else None,
            "product": self.product,
            "driver_version": self.driver,
        }


NOT_FROM_SLICES: Final = FromSlices()


def published_gpus(slices: Collection[SliceFacts]) -> PublishedGPUs | None:
    """What these slices of one node say together; None while a pool is incomplete."""
    current: list[SliceFacts] = []
    for pool in {one.pool for one in slices}:
        of_pool = [one for one in slices if one.pool == pool]
        generation = max(one.generation for one in of_pool)
        newest = [one for one in of_pool if one.generation == generation]
        if len(newest) < max(one.count for one in newest):
            return None
        current += newest
    drivers = sorted({driver for one in current for driver in one.drivers})
    return PublishedGPUs(
        has_devices=any(one.has_devices for one in current),
        uuids=tuple(sorted({uuid for one in current for uuid in one.uuids})),
        product=joined_products(product for one in current for product in one.products),
        driver=truncate(", ".join(drivers), 128) or None,
    )


def from_slices(
    published: PublishedGPUs | None,
    uuids: Iterable[str] | None,
    *,
    departed: bool,
    before: FromSlices,
) -> FromSlices:
    """What the status shall show, by the table above.

    `published` is None while it is not known; `uuids` are those of the GPUs of the inventory, None
    before the first successful read.
    """
    if departed:
        return before._replace(difference="")
    if published is None:
        return before if uuids is None else FromSlices(difference=before.difference)
    if uuids is not None:
        return FromSlices(difference=differences(published.uuids, uuids))
    if not published.has_devices:
        return FromSlices()
    return FromSlices(True, published.product, published.driver)


def differences(published: Iterable[str], listed: Iterable[str]) -> str:
    """The UUIDs that only one side has, in words; empty if there are none, or the slices have no
    UUIDs at all."""
    there, here = set(published), set(listed)
    if not there or there == here:
        return ""
    parts = []
    if only := there - here:
        parts.append(f"they publish {_names(only)}, which nvidia-smi did not list")
    if only := here - there:
        parts.append(f"they do not publish {_names(only)}, which the inventory lists")
    return f"{_DIFFERENCE}{_SEPARATOR.join(parts)}"


def with_difference(message: str, difference: str) -> str:
    """The message of Ready with this difference instead of the one that it has."""
    own = message.partition(_DIFFERENCE)[0].removesuffix(_SEPARATOR)
    if not own or not difference:
        return own or difference
    room = MAX_CONDITION_MESSAGE - encoded_size(_SEPARATOR + difference)
    return f"{truncate(own, room)}{_SEPARATOR}{difference}"


def _difference_in(message: str) -> str:
    _, found, difference = message.partition(_DIFFERENCE)
    return found + difference


def _names(uuids: set[str]) -> str:
    names = sorted(uuids)
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
