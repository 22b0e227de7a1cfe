"""Full histories: what an inventory looks like after years, made of one that was just read."""

from __future__ import annotations

import copy
import uuid
from typing import Any, Final

from gpuid_operator.api.inventory import HistoryType, InventoryStatus
from gpuid_operator.plan.history import KEPT_IDENTITY, KEPT_OTHERS
from gpuid_operator.plan.labels import lookup_labels

_REPLACED: Final = KEPT_IDENTITY // 2


def full(status: dict[str, Any]) -> dict[str, Any]:
    """A status with as many delivered entries as the operator keeps.

    Other GPUs came and went, and the health of those that are there changed often. The rest of the
    status stays, so that the operator has nothing to write.
    """
    filled = copy.deepcopy(status)
    history = filled["history"]
    added = [one for one in history if one["type"] == HistoryType.GPU_ADDED]
    sequence = filled["sequence"]
    for number in range(_REPLACED):
        model = added[number % len(added)]
        name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{model['uuid']}-{number}"))
        serial = str(uuid.UUID(name).int)[:13]
        for kind in (HistoryType.GPU_ADDED, HistoryType.GPU_REMOVED):
            sequence += 1
            past = {"type": kind.value, "uuid": f"GPU-{name}", "serial": serial}
            history.append(model | past | {"sequence": sequence})
    for number in range(KEPT_OTHERS):
        sequence += 1
        change = {
            "type": HistoryType.HEALTH_CHANGED.value,
            "from": f"eccUncorrectable={number}",
            "to": f"eccUncorrectable={number + 1}",
        }
        history.append(added[number % len(added)] | change | {"sequence": sequence})
    filled["sequence"] = sequence
    for sink in filled.get("sinks", ()):
        sink["deliveredSequence"] = sequence
    return filled


def labels(status: dict[str, Any]) -> dict[str, str]:
    """The look-up labels of an inventory with this status."""
    return lookup_labels(InventoryStatus.model_validate(status))
