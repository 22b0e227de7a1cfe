"""A fleet in memory for the page: inventories as the operator writes them, and GPUs that moved."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zlib import crc32

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.api.meta import API_VERSION, INVENTORY_KIND, QUARANTINE_KIND
from gpuid_operator.plan import conditions
from gpuid_operator.plan.labels import lookup_labels
from tests.support.kube import INVENTORIES, QUARANTINES, FakeKube

H100: Final = "NVIDIA H100 80GB HBM3"
GB200: Final = "NVIDIA GB200"
NOW: Final = datetime.now(UTC).replace(microsecond=0)
RACK: Final = 18
"""Compute trays of an NVL72, with four GPUs each."""


def ago(**duration: float) -> str:
    return (NOW - timedelta(**duration)).isoformat().replace("+00:00", "Z")


def gpu(number: int, *, slot: int = 0, **facts: Any) -> dict[str, Any]:
    return {
        "uuid": f"GPU-{number:08x}-6a27-0a2d-f989-{number * 2654435761 % 2**48:012x}",
        "serial": str(1650000000000 + number * 7919),
        "pciAddress": f"00000000:{0x10 + slot * 0x11:02X}:00.0",
        "product": H100,
        "state": "OK",
        **facts,
    }


def machine(node: str) -> str:
    return f"i-{crc32(node.encode()):08x}"


def entry(sequence: int, kind: str, of: dict[str, Any] | None, time: str, **facts: Any) -> Any:
    known: dict[str, Any] = {}
    if of:
        known |= {key: of[key] for key in ("uuid", "serial", "pciAddress") if key in of}
    if of and "chassisSerial" in of:
        known["chassis"] = of["chassisSerial"]
    return {"sequence": sequence, "time": time, "type": kind, **known, **facts}


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    said = {"type": kind, "status": status, "reason": reason, "message": message}
    return said | {"lastTransitionTime": ago(hours=3)}


_GONE: Final = "the node is gone; its GPUs are listed as last known"
DEPARTED: Final = (
    condition("Ready", "False", "NodeNotFound", _GONE),
    condition("Healthy", "Unknown", "NodeDeparted", _GONE),
)
"""What the operator says of the inventory of a node that is gone."""


def conditions_of(status: InventoryStatus) -> dict[str, dict[str, Any]]:
    """What the operator says of a node that it read."""
    updates = {
        "Ready": conditions.read_ok(()),
        "Healthy": conditions.healthy(status.gpus),
        "Delivered": conditions.delivered(status.sinks, status.history),
    }
    return {
        kind: condition(kind, update.status.value, update.reason, update.message)
        for kind, update in updates.items()
    }


def inventory(
    name: str,
    gpus: Sequence[dict[str, Any]],
    *,
    other: Sequence[dict[str, Any]] = (),
    **facts: Any,
) -> dict[str, Any]:
    """An inventory with its look-up labels, and the conditions that its facts have; `other` ones
    replace those of the same type."""
    status = {
        "state": "Present",
        "node": {"name": name, "machine": machine(name)},
        "driverVersion": "570.86.15",
        "product": gpus[0]["product"] if gpus else None,
        "gpuCount": len(gpus),
        "gpus": list(gpus),
        "history": [],
        "sinks": [],
        "lastReadTime": ago(minutes=len(name) + len(gpus)),
        **facts,
    }
    known = InventoryStatus.model_validate(status)
    found = conditions_of(known) | {one["type"]: one for one in other}
    status.setdefault("conditions", list(found.values()))
    return {
        "apiVersion": API_VERSION,
        "kind": INVENTORY_KIND,
        "metadata": {
            "name": name,
            "labels": lookup_labels(known),
        },
        "spec": {},
        "status": {key: value for key, value in status.items() if value is not None},
    }


def departed(name: str, gpus: Sequence[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    """The inventory of a node that is gone."""
    return inventory(name, gpus, state="Departed", other=DEPARTED, **facts)


def store(kube: FakeKube, body: dict[str, Any]) -> None:
    kube.put(f"{INVENTORIES}/{body['metadata']['name']}", body)


def fill(kube: FakeKube, nodes: int, *, start: int = 0, prefix: str = "gpu-node") -> None:
    """Nodes with eight H100 each, in a chassis of their own."""
    for number in range(nodes):
        chassis = f"CH{start + number:06}"
        gpus = [
            gpu((start + number) * 8 + slot, slot=slot, chassisSerial=chassis) for slot in range(8)
        ]
        store(kube, inventory(f"{prefix}-{number:04}", gpus))


def fill_racks(kube: FakeKube, racks: int, *, start: int = 500_000) -> None:
    """Racks of eighteen nodes with four GB200 each."""
    for number in range(racks * RACK):
        chassis = f"NVL72-{number // RACK + 1:02}"
        gpus = [
            gpu(start + number * 4 + slot, slot=slot, product=GB200, chassisSerial=chassis)
            for slot in range(4)
        ]
        store(kube, inventory(f"rack{number // RACK + 1}-tray{number % RACK + 1:02}", gpus))


MOVED: Final = gpu(999_999, slot=3, chassisSerial="CH-SPARE")


def at(node: str, history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries, on the machine of a node."""
    return [one | {"machine": machine(node)} for one in history]


def move(one: FakeKube, two: FakeKube) -> None:
    """MOVED was on two nodes of one cluster, and is on one of the other."""
    first, second, third = ago(days=40), ago(days=24), ago(days=9)
    history = [
        entry(1, "GPUAdded", MOVED, first),
        entry(2, "HealthChanged", MOVED, ago(days=30), **{"from": "0", "to": "2"}),
        entry(3, "GPURemoved", MOVED, second),
    ]
    store(one, inventory("gpu-node-0100", [gpu(900_100)], history=at("gpu-node-0100", history)))
    history = [
        entry(4, "GPUAdded", MOVED, ago(days=23)),
        entry(5, "GPULost", MOVED, ago(days=12), message="nvidia-smi says that the GPU is lost"),
        entry(6, "GPURemoved", MOVED, third),
    ]
    store(one, inventory("gpu-node-0101", [gpu(900_101)], history=at("gpu-node-0101", history)))
    others = [gpu(900_110 + slot, slot=slot, chassisSerial="CH-SPARE") for slot in range(7)]
    left = gpu(900_199, slot=3, chassisSerial="CH-SPARE")
    history = [
        *[entry(10 + i, "GPUAdded", one, ago(days=35)) for i, one in enumerate([*others, left])],
        entry(20, "DriverChanged", None, ago(days=20), **{"from": "565.57.01", "to": "570.86.15"}),
        entry(21, "GPURemoved", left, ago(days=7)),
        entry(22, "GPUAdded", MOVED, ago(days=7)),
    ]
    refused = "POST https://audit.example.com/gpu: 503 Service Unavailable"
    sinks = [
        {"name": "fleet-db", "type": "postgres", "deliveredSequence": 22, "pending": 0}
        | {"lastDeliveryTime": ago(days=7)},
        {"name": "audit", "type": "http", "deliveredSequence": 20, "pending": 2}
        | {"lastError": f"Unavailable: {refused}", "since": ago(hours=5)},
    ]
    checks = [{"name": "nccl", "passed": True, "exitCode": 0, "stdout": "busbw 412 GB/s"}]
    body = inventory(
        "gpu-node-0007",
        [*others, MOVED],
        history=at("gpu-node-0007", history),
        sinks=sinks,
        checks=checks,
    )
    store(two, body)


def trouble(kube: FakeKube) -> None:
    """Some nodes with what can be wrong."""
    lost = [gpu(800_000 + slot, slot=slot, chassisSerial="CH-LOST") for slot in range(8)]
    lost[2]["state"], lost[5]["state"] = "Lost", "ResetRequired"
    store(kube, inventory("gpu-node-0003", lost))
    sick = [gpu(810_000 + slot, slot=slot, chassisSerial="CH-SICK") for slot in range(8)]
    sick[1]["health"] = {"remappedRowsPending": True, "eccUncorrected": 2}
    sick[6]["quarantines"] = ["xid-79"]
    why = f"xid-79 (Xid 79 three times): {sick[6]['uuid']} (serial {sick[6]['serial']})"
    held = condition("Quarantined", "True", "Quarantined", why)
    store(kube, inventory("gpu-node-0012", sick, other=[held]))
    unread = condition("Ready", "False", "DriverNotLoaded", "Driver/library version mismatch")
    fine = [gpu(820_000 + slot, slot=slot, chassisSerial="CH-FINE") for slot in range(8)]
    store(kube, inventory("gpu-node-0021", fine, other=[unread], driverVersion="565.57.01"))
    store(kube, departed("gpu-node-0030", [gpu(830_000)]))
    quarantine = {
        "apiVersion": API_VERSION,
        "kind": QUARANTINE_KIND,
        "metadata": {"name": "xid-79"},
        "spec": {"parts": [{"uuid": sick[6]["uuid"]}], "reason": "Xid 79 three times"},
        "status": {
            "matchCount": 1,
            "matches": [{"node": "gpu-node-0012", "uuid": sick[6]["uuid"], "since": ago(days=1)}],
        },
    }
    kube.put(f"{QUARANTINES}/xid-79", quarantine)


def pictured() -> tuple[FakeKube, FakeKube]:
    """The two clusters of the pictures in the documentation."""
    one, two = FakeKube(), FakeKube()
    fill_racks(one, 2)
    fill(one, 60)
    trouble(one)
    fill(two, 40, start=2000)
    move(one, two)
    return one, two
