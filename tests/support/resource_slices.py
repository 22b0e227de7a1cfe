"""ResourceSlices as NVIDIA's DRA driver for GPUs publishes them, small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tests.support.kube import DRA, FakeKube

DRIVER: Final = "gpu.nvidia.com"
PRODUCT: Final = "NVIDIA H100 80GB HBM3"
PCI_PRODUCT: Final = "GH100 [H100 SXM5 80GB]"


def slice_path(name: str, *, version: str = "v1") -> str:
    return f"{DRA}/{version}/resourceslices/{name}"


def gpu(
    uuid: str, *, index: int = 0, product: str = PRODUCT, driver: str = "570.86.15"
) -> dict[str, Any]:
    """A device of type gpu."""
    attributes = {
        "type": {"string": "gpu"},
        "uuid": {"string": uuid},
        "productName": {"string": product},
        "driverVersion": {"version": driver},
        "resource.kubernetes.io/pciBusID": {"string": f"0000:{index:02x}:00.0"},
    }
    return {"name": f"gpu-{index}", "attributes": attributes}


def mig(parent: str, *, index: int = 0, number: int = 0) -> dict[str, Any]:
    """A MIG device of a GPU."""
    device = gpu(f"MIG-{parent}-{number}", index=index)
    device["name"] = f"gpu-{index}-mig-1g10gb-19-{number}"
    device["attributes"] |= {"type": {"string": "mig"}, "parentUUID": {"string": parent}}
    return device


def vfio(uuid: str, *, index: int = 0) -> dict[str, Any]:
    """A GPU that is passed through to virtual machines, of which no driver version is known."""
    attributes = {
        "type": {"string": "vfio"},
        "uuid": {"string": uuid},
        "productName": {"string": PCI_PRODUCT},
    }
    return {"name": f"gpu-vfio-{index}", "attributes": attributes}


def resource_slice(
    node: str | None,
    devices: Sequence[dict[str, Any]],
    *,
    name: str = "",
    generation: int = 1,
    count: int = 1,
    pool: str = "",
    driver: str = DRIVER,
    version: str = "v1",
) -> dict[str, Any]:
    """A slice; without a node, one for all nodes."""
    if version == "v1beta1":
        devices = [
            {"name": one["name"], "basic": {"attributes": one["attributes"]}} for one in devices
        ]
    place = {"nodeName": node} if node is not None else {"allNodes": True}
    return {
        "apiVersion": f"resource.k8s.io/{version}",
        "kind": "ResourceSlice",
        "metadata": {"name": name or f"{node}-{driver}"},
        "spec": {
            "driver": driver,
            **place,
            "pool": {
                "name": pool or node or "shared",
                "generation": generation,
                "resourceSliceCount": count,
            },
            "devices": list(devices),
        },
    }


def put_slice(
    kube: FakeKube, node: str | None, devices: Sequence[dict[str, Any]], **how: Any
) -> dict[str, Any]:
    """Create or replace a slice, as the driver does."""
    body = resource_slice(node, devices, **how)
    version = how.get("version", "v1")
    return kube.put(slice_path(body["metadata"]["name"], version=version), body)


def gpus(*uuids: str, **facts: str) -> list[dict[str, Any]]:
    """Devices of type gpu."""
    return [gpu(uuid, index=index, **facts) for index, uuid in enumerate(uuids)]
