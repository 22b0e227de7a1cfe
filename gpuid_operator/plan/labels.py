"""Look-up labels on GPUInventory objects, and gpuid's labels on Nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from gpuid_operator.api.inventory import (
    HistoryEntry,
    HistoryType,
    InventoryState,
    InventoryStatus,
)
from gpuid_operator.api.meta import (
    CHASSIS_LABEL,
    GROUP,
    LOOKUP_PREFIXES,
    SERIAL_LABEL,
    UUID_LABEL,
)

PRESENT: Final = "present"
PAST: Final = "past"
MAX_PAST: Final = 100
"""Maximum number of look-up labels for past identifiers."""

MISSING: Final = "na"
"""The value that gpuid writes for a missing value."""

Pair = tuple[str | None, str | None]
"""(chassis serial, GPU serial) of one GPU."""

_UNKNOWN: Final = "N/A"
_OTHER: Final = re.compile(r"[^A-Za-z0-9._-]")
_ENDS: Final = "._-"
_NODE_PREFIX: Final = f"{GROUP}/"
_OURS: Final = re.compile(
    re.escape(_NODE_PREFIX) + r"(chassis|chassis-count|chassis-\d+|gpu-\d+|chassis-\d+-gpu-\d+)"
)


@lru_cache(maxsize=4096)  # the labels of a node are computed more than once
def label_text(value: str | None) -> str:
    """A value in a form that Kubernetes allows in label names and values; may be empty.

    Characters other than `[A-Za-z0-9._-]` become `-`. The result has at most 63 characters and
    begins and ends alphanumerically.
    """
    return _OTHER.sub("-", value or "").strip(_ENDS)[:63].rstrip(_ENDS)


def lookup_labels(status: InventoryStatus) -> dict[str, str]:
    """The look-up labels of an inventory: `present` for current, `past` for former identifiers.

    Former identifiers come from the history, newest first, at most MAX_PAST of them.
    """
    here: dict[str, None] = {}
    for gpu in status.gpus or ():
        here.update(_keys(gpu.uuid, gpu.serial, gpu.chassis_serial))
    past: dict[str, None] = {}
    if status.state is InventoryState.DEPARTED:
        past, here = here, {}
    for entry in reversed(status.history or ()):
        past.update(_entry_keys(entry))
    left = [name for name in past if name not in here][:MAX_PAST]
    return dict.fromkeys(here, PRESENT) | dict.fromkeys(left, PAST)


def same_lookup_labels(before: InventoryStatus, after: InventoryStatus) -> bool:
    """Whether two statuses have the same facts, of which look-up labels are made. Costs little
    where one status was made of the other."""
    return (before.state, before.gpus, before.history) == (after.state, after.gpus, after.history)


def _entry_keys(entry: HistoryEntry) -> dict[str, None]:
    keys = _keys(entry.uuid, entry.serial, entry.chassis)
    # The serial is the only fact that can change and by which users look up a GPU.
    if entry.type is HistoryType.GPU_CHANGED and entry.serial and entry.to == entry.serial:
        keys |= _keys(None, entry.from_, None)
    return keys


def _keys(uuid: str | None, serial: str | None, chassis: str | None) -> dict[str, None]:
    named = ((UUID_LABEL, uuid), (SERIAL_LABEL, serial), (CHASSIS_LABEL, chassis))
    return {f"{prefix}/{text}": None for prefix, value in named if (text := label_text(value))}


def lookup_changes(current: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str | None]:
    """Changes to the labels of an inventory; None removes. Labels with other prefixes are kept."""
    stale = {
        name: None
        for name in current
        if name.partition("/")[0] in LOOKUP_PREFIXES and name not in wanted
    }
    return stale | {name: value for name, value in wanted.items() if current.get(name) != value}


def node_labels(pairs: Iterable[Pair]) -> dict[str, str]:
    """gpuid's labels for a Node that has GPUs with these chassis and serials.

        chassis               | labels
        ----------------------|--------------------------------------------------------
        none known            | gpu-J
        one                   | chassis, chassis-count, gpu-J
        several, or one known | chassis-I, chassis-count, chassis-I-gpu-J for the known;
        beside GPUs without   | gpu-J for GPUs without

    Serials are sorted and unique within their chassis; I and J count from 0. As in gpuid, a missing
    chassis or serial has its place in the order as `N/A`, and chassis-count counts the known.
    """
    by_chassis: dict[str, set[str]] = {}
    for chassis, serial in pairs:
        by_chassis.setdefault(_known(chassis), set()).add(_known(serial))
    several = len(by_chassis) > 1
    labels: dict[str, str] = {}
    for i, chassis in enumerate(sorted(by_chassis)):
        prefix = ""
        if chassis != _UNKNOWN:
            labels[f"chassis-{i}" if several else "chassis"] = label_text(chassis)
            prefix = f"chassis-{i}-" if several else ""
        for j, serial in enumerate(sorted(by_chassis[chassis])):
            labels[f"{prefix}gpu-{j}"] = MISSING if serial == _UNKNOWN else label_text(serial)
    if count := len(by_chassis.keys() - {_UNKNOWN}):
        labels["chassis-count"] = str(count)
    return {f"{_NODE_PREFIX}{name}": value for name, value in labels.items()}


def _known(value: str | None) -> str:
    """The value, or `N/A` if it is none or would be none as a label."""
    return value if value and label_text(value) not in ("", "N-A") else _UNKNOWN


def node_label_changes(
    current: Mapping[str, str], pairs: Sequence[Pair], *, enabled: bool
) -> dict[str, str | None]:
    """Changes to the labels of a Node; None removes.

    While node labels are enabled, every other label with our prefix is removed, no matter who wrote
    it. When they are disabled, only labels of the forms that the operator writes are removed.
    """
    wanted = node_labels(pairs) if enabled else {}
    stale = {
        name: None
        for name in current
        if name not in wanted
        and (name.startswith(_NODE_PREFIX) if enabled else _OURS.fullmatch(name))
    }
    return stale | {name: value for name, value in wanted.items() if current.get(name) != value}
