"""ResourceSlices of NVIDIA's DRA driver for GPUs: reads the few facts that the operator needs of
10 KB and more each."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from gpuid_operator.api.meta import DRA_DRIVER
from gpuid_operator.kube.client import ONLY_METADATA_LIST, KubeClient, item
from gpuid_operator.kube.errors import NotFound
from gpuid_operator.kube.paging import list_pages
from gpuid_operator.kube.watch import watch_objects
from gpuid_operator.plan.resource_slices import SliceFacts

_GROUP: Final = "/apis/resource.k8s.io"
_VERSIONS: Final = ("v1", "v1beta2", "v1beta1")
"""The versions that the operator can read, preferred ones first; v1 exists since Kubernetes
1.34."""
_OF_DRIVER: Final = {"fieldSelector": f"spec.driver={DRA_DRIVER}"}
_PAGE: Final = 100
"""Slices per page: 1 MB of JSON for nodes with 8 GPUs, 6 MB with their MIG partitions."""
_METADATA_PAGE: Final = 500

_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GPU: Final = "gpu"
_PASSED_THROUGH: Final = "vfio"
"""Type of a GPU for virtual machines. The driver makes its UUID from the PCI address, and takes its
product name from the PCI database. The same GPU may be there as type gpu, too."""


async def served_collection(client: KubeClient) -> str | None:
    """The path of the ResourceSlices in the newest version that the API server serves; None if it
    serves none that the operator can read.

    Raises what `KubeClient.request` raises.
    """
    try:
        group = await client.request("GET", _GROUP)
    except NotFound:
        return None
    served = {version.get("version") for version in group.get("versions") or ()}
    found = next((version for version in _VERSIONS if version in served), None)
    return found and f"{_GROUP}/{found}/resourceslices"


def slice_pages(
    client: KubeClient, collection: str, *, since: str = "", only_metadata: bool = False
) -> AsyncIterator[dict[str, Any]]:
    """All slices of the driver, in pages. A server may send whole objects in spite of
    `only_metadata`. Raises as `list_pages`, which explains `since`."""
    accept, limit = (ONLY_METADATA_LIST, _METADATA_PAGE) if only_metadata else (None, _PAGE)
    return list_pages(
        client, collection, params=_OF_DRIVER, accept=accept, limit=limit, since=since
    )


async def get_slice(client: KubeClient, collection: str, name: str) -> dict[str, Any]:
    """A slice. Raises NotFound, and what `KubeClient.request` raises."""
    found: dict[str, Any] = await client.request("GET", item(collection, name))
    return found


def watch_slices(
    client: KubeClient, collection: str, *, version: str
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The events of the slices of the driver after `version`, as `watch_objects` has them."""
    return watch_objects(client, collection, version=version, params=_OF_DRIVER)


def slice_facts(body: Mapping[str, Any]) -> SliceFacts | None:
    """Read an API object of any version; None for a slice that belongs to no single node, or to
    another driver."""
    spec = body.get("spec") or {}
    node, pool = spec.get("nodeName"), spec.get("pool") or {}
    if not node or spec.get("driver") != DRA_DRIVER:
        return None
    devices = [dict(_attributes(device)) for device in spec.get("devices") or ()]
    of_driver = [device for device in devices if device.get("type") != _PASSED_THROUGH]
    name = pool.get("name", "")
    return SliceFacts(
        node=node,
        pool=node if name == node else name,
        generation=pool.get("generation", 0),
        count=pool.get("resourceSliceCount", 1),
        has_devices=bool(devices),
        uuids=tuple(sorted({uuid for device in devices if (uuid := _uuid(device))})),
        products=_values(of_driver or devices, "productName"),
        drivers=_values(devices, "driverVersion"),
    )


def _attributes(device: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The attributes that are texts or versions. Those of the driver may have its name as prefix;
    in v1beta1 they are under `basic`."""
    attributes = (device.get("basic") or device).get("attributes") or {}
    for name, value in attributes.items():
        text = value.get("string", value.get("version"))
        if isinstance(text, str):
            yield name.removeprefix(f"{DRA_DRIVER}/"), text


def _uuid(device: Mapping[str, str]) -> str | None:
    """The UUID of the physical GPU behind a device."""
    uuid = device.get("uuid") if device.get("type") == _GPU else device.get("parentUUID")
    return uuid if uuid and _PLAIN.fullmatch(uuid) else None


def _values(devices: list[dict[str, str]], name: str) -> tuple[str, ...]:
    return _shared(tuple(sorted({_line(device[name]) for device in devices if name in device})))


def _line(text: str) -> str:
    return "".join(filter(str.isprintable, " ".join(text.split())))


@lru_cache(maxsize=256)
def _shared(values: tuple[str, ...]) -> tuple[str, ...]:
    """An equal value that other slices have already, if there is one: most nodes of a fleet have
    the same product and driver."""
    return values
