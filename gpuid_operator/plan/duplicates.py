"""GPUs that several present inventories list: when that is certain, and the condition Unique.

A GPU that moved is in two inventories until the node that it left is read again. So the inventory
that was read longer ago is read again at once, and only if it still lists the GPU, both claim it:

a read of one node lists the GPU, and so did the last one of the other node  | a duplicate
-----------------------------------------------------------------------------|------------
the other one was made by an earlier process                                 | not known
it began before the GPU was in all inventories that list it now              | not known
the other one began before it was in this inventory: it may have moved here  | not known
they began more than WINDOW apart: it may have moved here and back           | not known
any other                                                                    | yes

The condition of one inventory:

before        | none of its GPUs is a duplicate | not known yet | one of them is
--------------|---------------------------------|---------------|----------------------
no condition  | no condition                    | no condition  | False, SeenElsewhere
any           | True, Unique                    | as before     | False, SeenElsewhere

A departed node has none of its GPUs any more: its condition, if it has one, is Unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from gpuid_operator.api.inventory import ConditionStatus
from gpuid_operator.api.values import truncate
from gpuid_operator.plan.conditions import MAX_CONDITION_MESSAGE, NODE_GONE, ConditionUpdate

WINDOW: Final = 300.0
"""Seconds between two reads in which a GPU cannot have moved back and forth unnoticed."""
RETRY: Final = 60.0
"""Seconds between two reads of a node because of the same other node."""
NAMED_NODES: Final = 3
"""Largest number of other nodes that a message names."""

_UNIQUE: Final = ConditionUpdate(ConditionStatus.TRUE, "Unique")


class Duplicate(NamedTuple):
    """A GPU of a node that other present inventories list, too."""

    uuid: str
    nodes: tuple[str, ...]
    """The first other nodes by name, at most NAMED_NODES."""
    more: bool
    """Whether there are further nodes."""


def is_duplicate(read: float, other: float | None, *, here: float, everywhere: float) -> bool:
    """Whether two reads that listed a GPU show that both nodes have it, by the first table.

    `read` and `other` are the times at which the reads began, `here` and `everywhere` those since
    which this inventory and all inventories list the GPU, in seconds of one clock.
    """
    if other is None or read < everywhere or other < here:
        return False
    return abs(read - other) <= WINDOW


def unique(
    duplicates: Sequence[Duplicate] | None, *, departed: bool, before: ConditionUpdate | None
) -> ConditionUpdate | None:
    """The condition Unique, by the second table; None for no condition. `duplicates` is None where
    they are not known yet."""
    if departed:
        return NODE_GONE if before is not None else None
    if duplicates:
        message = truncate(_message(duplicates), MAX_CONDITION_MESSAGE)
        return ConditionUpdate(ConditionStatus.FALSE, "SeenElsewhere", message)
    if duplicates is None or before is None:
        return before
    return _UNIQUE


def _message(duplicates: Sequence[Duplicate]) -> str:
    by_nodes: dict[str, list[str]] = {}
    for duplicate in duplicates:
        nodes = ", ".join(duplicate.nodes) + (" and other nodes" if duplicate.more else "")
        by_nodes.setdefault(nodes, []).append(duplicate.uuid)
    return "; ".join(
        f"nvidia-smi lists {', '.join(uuids)} on {nodes}, too" for nodes, uuids in by_nodes.items()
    )
