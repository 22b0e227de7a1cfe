"""Inventories as an operator would write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from gpuid_operator.plan.labels import lookup_labels
from tests.support.operators import INVENTORIES

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
UUID_1 = "GPU-25e04bdf-6a27-0a2d-f989-a9228a03f373"
UUID_2 = "GPU-77ee04bd-0000-0a2d-f989-a9228a03f373"
HERE = "gpuid-local"


def at(minute: int) -> str:
    return f"2026-06-07T10:{minute:02}:00Z"


def gpu(uuid: str, serial: str, **facts: Any) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "serial": serial,
        "pciAddress": "00000000:01:00.0",
        "product": "NVIDIA GB200",
        **facts,
    }


def entry(minute: int, kind: str, of: Mapping[str, Any] | None, **facts: Any) -> dict[str, Any]:
    known = {key: of[key] for key in ("uuid", "serial", "pciAddress")} if of else {}
    return {
        "sequence": minute,
        "time": at(minute),
        "type": kind,
        "machine": "i-1",
        **known,
        **facts,
    }


def ready(status: str = "True", reason: str = "ReadOK", message: str = "") -> dict[str, Any]:
    return {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at(0),
    }


def put(
    cluster: LocalCluster,
    name: str,
    *,
    gpus: Sequence[dict[str, Any]] = (),
    history: Sequence[dict[str, Any]] = (),
    labelled: bool = True,
    **facts: Any,
) -> None:
    """Create an inventory as the operator would."""
    status = {
        "state": "Present",
        "node": {"name": name, "machine": "i-1"},
        "gpuCount": len(gpus),
        "serials": sorted({one["serial"] for one in gpus}),
        "gpus": list(gpus),
        "history": list(history),
        "driverVersion": "570.86.15",
        "lastReadTime": at(30),
        "conditions": [ready()],
        **facts,
    }
    labels = lookup_labels(InventoryStatus.model_validate(status)) if labelled else {}
    body = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventory",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
    }
    cluster.client.send(Request("POST", INVENTORIES, body))
    change(cluster, name, **status)


def change(cluster: LocalCluster, name: str, **status: Any) -> None:
    path = f"{INVENTORIES}/{name}/status"
    cluster.client.send(Request("PATCH", path, {"status": status}, content_type=MERGE))
