"""Reads and writes of GPUInventory objects.

Who may write what: the object is created with an empty spec that is the user's from then on; the
status is written by server-side apply, with every field that this manager owns, since a field left
out is a field given up; the labels by merge patch. Every write of an existing object carries the
resourceVersion it was decided on, so that a writer who was paused cannot undo what came after.
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
from gpuid_operator.kube.client import APPLY_PATCH, MERGE_PATCH, ONLY_METADATA, KubeClient, item
from gpuid_operator.kube.watch import MetadataEvent, watch_metadata

_INVENTORIES: Final = f"/apis/{API_VERSION}/{INVENTORY_PLURAL}"
_PAGE: Final = 100
"""Objects per page: with a usual history of 50 entries some 2.5 MB of JSON."""


@dataclass(frozen=True, slots=True)
class InventoryMeta:
    """Of an object just written: which one it is, and which version of it."""

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
    """Create an inventory with these labels, marked as ours, and an empty spec.

    Raises AlreadyExists, and as `KubeClient.request`.
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
    """Apply the whole status that `manager` owns; the new resourceVersion (the old one, when
    nothing changed).

    Raises Conflict when the object changed since `resource_version`, or when another manager owns a
    field and `force` is off; NotFound; and as `KubeClient.request`. That `uid` is another's is told
    by the resourceVersion only, as an apply does not look at it.
    """
    answer = await client.request(
        "PATCH",
        f"{item(_INVENTORIES, name)}/status",
        params={
            "fieldManager": manager,
            "force": "true" if force else "false",
            "fieldValidation": "Ignore",
        },
        body={
            "apiVersion": API_VERSION,
            "kind": INVENTORY_KIND,
            "metadata": {"name": name, "uid": uid, "resourceVersion": resource_version},
            "status": status,
        },
        content_type=APPLY_PATCH,
        accept=ONLY_METADATA,
    )
    version: str = answer["metadata"]["resourceVersion"]
    return version


async def patch_inventory_labels(
    client: KubeClient, *, name: str, resource_version: str, changes: Mapping[str, str | None]
) -> str:
    """Set the labels of an inventory, remove those whose value is None; the new resourceVersion.

    Raises Conflict when the object changed since `resource_version`, NotFound, and as
    `KubeClient.request`.
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
    """Delete this very version of this very object.

    Raises Conflict when it is another by now, NotFound, and as `KubeClient.request`.
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
    """One inventory as API object. Raises NotFound, and as `KubeClient.request`."""
    body: dict[str, Any] = await client.request("GET", item(_INVENTORIES, name))
    return body


async def inventory_pages(
    client: KubeClient, *, limit: int = _PAGE
) -> AsyncIterator[dict[str, Any]]:
    """All inventories in pages as the API gives them; `metadata.resourceVersion` of each is that of
    the whole list, from which `watch_inventories` goes on.

    Raises ListExpired, and as `KubeClient.request`.
    """
    async for page in client.pages(_INVENTORIES, limit=limit):
        yield page


def watch_inventories(client: KubeClient, *, version: str) -> AsyncIterator[MetadataEvent]:
    """What happens to inventories after `version`; see `watch_metadata`."""
    return watch_metadata(client, _INVENTORIES, version=version)


async def list_inventories(
    client: KubeClient, *, selector: str = "", limit: int = _PAGE
) -> AsyncIterator[dict[str, Any]]:
    """All inventories that a label selector matches, as API objects, read in pages of `limit`.

    Raises ListExpired, and as `KubeClient.request`.
    """
    params = {"labelSelector": selector} if selector else {}
    async for page in client.pages(_INVENTORIES, params=params, limit=limit):
        for body in page["items"]:
            yield body
