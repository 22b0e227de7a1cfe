"""The compact records of nodes and quarantines that the page holds; histories are fetched on
demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from gpuid_operator.api.inventory import GPUState, InventoryState
from gpuid_operator.api.meta import LOOKUP_PREFIXES
from gpuid_operator.plan.labels import PAST, PRESENT, label_text

Record = dict[str, Any]

_HEALTH: Final = ("remappedRowsPending", "remappedRowsFailed", "retiredPagesPending")


def node_record(cluster: str, body: Mapping[str, Any]) -> Record:
    """The record of an inventory. Fields that an older operator did not write are empty."""
    status = body.get("status") or {}
    return {
        "cluster": cluster,
        "name": body["metadata"]["name"],
        "machine": (status.get("node") or {}).get("machine"),
        "product": status.get("product"),
        "driver": status.get("driverVersion"),
        "count": status.get("gpuCount"),
        "state": status.get("state") or InventoryState.PRESENT.value,
        "read": status.get("lastReadTime"),
        "conditions": {
            one["type"]: [one["status"], one.get("reason", "")]
            for one in status.get("conditions") or ()
        },
        "sinks": [_sink(sink) for sink in status.get("sinks") or () if _is_behind(sink)],
        "gpus": [_gpu(gpu) for gpu in status.get("gpus") or ()],
    }


def _is_behind(sink: Mapping[str, Any]) -> bool:
    return bool(sink.get("pending") or sink.get("lastError"))


def _sink(sink: Mapping[str, Any]) -> Record:
    wanted = ("name", "type", "pending", "since", "lastError")
    return {key: sink[key] for key in wanted if key in sink}


def _gpu(gpu: Mapping[str, Any]) -> list[Any]:
    """As a list, because there are many: UUID, serial, chassis, PCI address, state, health flags,
    quarantines."""
    health = gpu.get("health") or {}
    flags = [name for name in _HEALTH if health.get(name)]
    if health.get("eccUncorrected"):
        flags.append("eccUncorrected")
    if health.get("recoveryAction") not in (None, "", "None"):
        flags.append("recoveryAction")
    return [
        gpu.get("uuid"),
        gpu.get("serial"),
        gpu.get("chassisSerial"),
        gpu.get("pciAddress"),
        gpu.get("state", GPUState.OK.value),
        flags,
        gpu.get("quarantines") or [],
    ]


def identifiers(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The identifiers by which the inventory is found, and whether the part is there: from the
    look-up labels, so that a GPU that left is found, too; and from the GPUs, for those of which the
    labels are not written yet."""
    for label, value in (body["metadata"].get("labels") or {}).items():
        prefix, _, name = label.partition("/")
        if prefix in LOOKUP_PREFIXES and value in (PRESENT, PAST):
            yield name, value
    status = body.get("status") or {}
    presence = PAST if status.get("state") == InventoryState.DEPARTED.value else PRESENT
    for gpu in status.get("gpus") or ():
        for field in ("uuid", "serial", "chassisSerial"):
            if name := label_text(gpu.get(field)):
                yield name, presence


def quarantine_record(cluster: str, body: Mapping[str, Any]) -> Record:
    """The record of a quarantine."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    return {
        "cluster": cluster,
        "name": body["metadata"]["name"],
        "reason": spec.get("reason"),
        "ticket": spec.get("ticket"),
        "until": spec.get("until"),
        "action": spec.get("action") or "Report",
        "parts": spec.get("parts") or [],
        "matches": status.get("matches") or [],
        "count": status.get("matchCount"),
    }
