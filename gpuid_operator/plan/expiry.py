"""Which inventories of departed nodes the operator deletes.

every sink has all of it | older than `retention` | among the newest MAX_DEPARTED | deleted
-------------------------|------------------------|-------------------------------|--------
no                       | any                    | any                           | no
yes                      | no                     | yes                           | no
yes                      | yes                    | any                           | yes
yes                      | any                    | no                            | yes

The age follows from `lastChangeTime`, the time of the departure: by the clock of that moment, or by
the API server's where the two differed. Where both were wrong, or the API server's was not known,
the retention begins when this is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.api.inventory import InventoryState, InventoryStatus
from gpuid_operator.api.values import whole_seconds
from gpuid_operator.plan.schedule import CLOCK_SKEW, is_ahead
from gpuid_operator.plan.status_change import StatusChange, StatusContext, build_change, writer_of

MAX_DEPARTED: Final = 5_000
"""The operator keeps no more inventories of departed nodes, even if `retention` is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DepartedInventory:
    """An inventory that the operator created and whose node is gone."""

    name: str
    last_change: datetime | None
    """None if it is not known. Such an inventory counts as the newest and never gets old."""
    last_read: datetime | None
    retention: timedelta
    delivered: bool
    """Whether every sink in force has all of its history."""


def expired(
    departed: Iterable[DepartedInventory], *, now: datetime, keep: int = MAX_DEPARTED
) -> list[str]:
    """The names of the inventories to delete, the oldest first, as the table above says.

    `keep` counts all departed inventories, those that no sink has completely included.
    """
    oldest_first = sorted(departed, key=lambda inventory: inventory.last_change or now)
    surplus = len(oldest_first) - keep
    return [
        inventory.name
        for number, inventory in enumerate(oldest_first)
        if inventory.delivered and (number < surplus or _is_old(inventory, now))
    ]


def misdated(departed: Iterable[DepartedInventory], *, now: datetime) -> list[str]:
    """The names of the inventories whose departure has a time that cannot be: in the future, or
    before the last read."""
    return [
        inventory.name
        for inventory in departed
        if inventory.last_change is not None
        and (
            is_ahead(inventory.last_change, now=now)
            or (
                inventory.last_read is not None
                and not is_ahead(inventory.last_read, now=now)
                and inventory.last_read - inventory.last_change > CLOCK_SKEW
            )
        )
    ]


def redated(previous: InventoryStatus, *, now: datetime, context: StatusContext) -> StatusChange:
    """The status of a departed node whose retention begins now."""
    if previous.state is not InventoryState.DEPARTED:
        return StatusChange(previous)
    return build_change(
        previous,
        {"last_change_time": whole_seconds(now)},
        [],
        writer=writer_of(previous, now),
        context=context,
        updates={},
    )


def _is_old(inventory: DepartedInventory, now: datetime) -> bool:
    age = None if inventory.last_change is None else now - inventory.last_change
    return age is not None and age >= inventory.retention
