"""Reads and writes GPUInventory objects.

The operator creates an object with an empty spec, which belongs to the user from then on. It writes
the status by server-side apply with all fields that its manager owns, because an omitted field is
given up, and the labels by merge patch. Every write of an existing object carries the
resourceVersion that it is based on, so that a delayed writer cannot overwrite newer changes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from gpuid_operator.api.meta import (
    API_VERSION,
    INVENTORY_KIND,
    INVENTORY_PLURAL,
    MANAGED_BY_LABEL,
    MANAGER,
)
from gpuid_operator.kube.client import (
    MERGE_PATCH,
    ONLY_METADATA,
    ONLY_METADATA_LIST,
    KubeClient,
    item,
)
from gpuid_operator.kube.paging import list_pages
from gpuid_operator.kube.status import apply_whole_status
from gpuid_operator.kube.watch import MetadataEvent, watch_metadata

_INVENTORIES: Final = f"/apis/{API_VERSION}/{INVENTORY_PLURAL}"
_PAGE: Final = 25
"""Objects per page: about 1 MB of JSON with full histories."""
_METADATA_PAGE: Final = 100
"""The same without spec and status."""


@dataclass(frozen=True, slots=True)
class InventoryMeta:
    """Identity and version of an object that was just written."""

    uid: str
    resource_version: str
    generation: int

    @classmethod
    def from_object(cls, body: Mapping[str, Any]) -> Self:
        """Read an API object, or the metadata of one."""
        meta = body["metadata"]
        return cls(
            uid=meta["uid"],
            resource_version=meta["resourceVersion"],
            generation=meta.get("generation", 0),
        )


async def create_inventory(
    client: KubeClient, *, name: str, labels: Mapping[str, str]
) -> InventoryMeta:
    """Create an inventory with these labels, the managed-by label and an empty spec.

    Raises AlreadyExists, and what `KubeClient.request` raises.
    """
    answer = await client.request(
        "POST",
        _INVENTORIES,
        params={"fieldManager": MANAGER},
        body={
            "apiVersion": API_VERSION,
            "kind": INVENTORY_KIND,
            "metadata": {"name": name, "labels": {**labels, MANAGED_BY_LABEL: MANAGER}},
            "spec": {},
        },
        accept=ONLY_METADATA,
    )
    return InventoryMeta.from_object(answer)


async def apply_status(
    client: KubeClient,
    *,
    name: str,
    uid: str,
    resource_version: str,
    status: Mapping[str, Any],
    manager: str,
    force: bool,
) -> str:
    """Apply the status of an inventory; see `apply_whole_status`."""
    return await apply_whole_status(
        client,
        _INVENTORIES,
        kind=INVENTORY_KIND,
        name=name,
        uid=uid,
        resource_version=resource_version,
        status=status,
        manager=manager,
        force=force,
        validation="Ignore",
    )


async def patch_inventory_labels(
    client: KubeClient, *, name: str, resource_version: str, changes: Mapping[str, str | None]
) -> str:
    """Set labels of an inventory, remove those whose value is None; return the new resourceVersion.

    Raises Conflict if the object changed since `resource_version`, NotFound, and what
    `KubeClient.request` raises.
    """
    answer = await client.request(
        "PATCH",
        item(_INVENTORIES, name),
        params={"fieldManager": MANAGER},
        body={"metadata": {"resourceVersion": resource_version, "labels": dict(changes)}},
        content_type=MERGE_PATCH,
        accept=ONLY_METADATA,
    )
    version: str = answer["metadata"]["resourceVersion"]
    return version


async def delete_inventory(
    client: KubeClient, *, name: str, uid: str, resource_version: str
) -> None:
    """Delete exactly this version of this object.

    Raises Conflict if the object changed, NotFound, and what `KubeClient.request` raises.
    """
    await client.request(
        "DELETE",
        item(_INVENTORIES, name),
        body={
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid, "resourceVersion": resource_version},
        },
    )


async def get_inventory(client: KubeClient, name: str) -> dict[str, Any]:
    """An inventory as API object. Raises NotFound, and what `KubeClient.request` raises."""
    body: dict[str, Any] = await client.request("GET", item(_INVENTORIES, name))
    return body


async def inventory_pages(
    client: KubeClient, *, since: str = "", only_metadata: bool = False
) -> AsyncIterator[dict[str, Any]]:
    """All inventories, in pages of the API. Each page has the `metadata.resourceVersion` of the
    list, from which `watch_inventories` continues. A server may send whole objects in spite of
    `only_metadata`. See `list_pages` for `since`.

    Raises ListExpired, and what `KubeClient.request` raises.
    """
    accept, limit = (ONLY_METADATA_LIST, _METADATA_PAGE) if only_metadata else (None, _PAGE)
    async for page in list_pages(client, _INVENTORIES, accept=accept, limit=limit, since=since):
        yield page


def watch_inventories(client: KubeClient, *, version: str) -> AsyncIterator[MetadataEvent]:
    """Events of inventories after `version`; see `watch_metadata`."""
    return watch_metadata(client, _INVENTORIES, version=version)


async def list_inventories(
    client: KubeClient, *, selector: str = "", limit: int = _PAGE
) -> AsyncIterator[dict[str, Any]]:
    """All inventories that match a label selector, as API objects, read in pages of `limit`.

    Raises ListExpired, and what `KubeClient.request` raises.
    """
    params = {"labelSelector": selector} if selector else {}
    async for page in list_pages(client, _INVENTORIES, params=params, limit=limit):
        for body in page["items"]:
            yield body
