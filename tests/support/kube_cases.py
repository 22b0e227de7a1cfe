"""Writes of objects, as cases that hold for the fake API server and for a real one.

Each case takes a client and a prefix that no other object's name begins with. `WRITES` lists them.
Lists and watches are in kube_list_cases.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from gpuid_operator.api.meta import API_VERSION, INVENTORY_KIND, MANAGED_BY_LABEL, MANAGER
from gpuid_operator.kube import errors
from gpuid_operator.kube.client import MERGE_PATCH, KubeClient, item
from gpuid_operator.kube.inventories import (
    InventoryMeta,
    apply_status,
    create_inventory,
    delete_inventory,
    get_inventory,
    patch_inventory_labels,
)

Case = Callable[[KubeClient, str], Awaitable[None]]

INVENTORIES: Final = f"/apis/{API_VERSION}/gpuinventories"
NOT_A_UID: Final = "00000000-0000-4000-8000-000000000000"
LABEL: Final = "example.com/case"


async def write(
    client: KubeClient,
    name: str,
    status: dict[str, Any],
    *,
    version: str | None = None,
    manager: str = MANAGER,
    force: bool = True,
) -> str:
    """Apply a status to `version`, by default the live one; the new resourceVersion."""
    meta = InventoryMeta.from_object(await get_inventory(client, name))
    return await apply_status(
        client,
        name=name,
        uid=meta.uid,
        resource_version=version or meta.resource_version,
        status=status,
        manager=manager,
        force=force,
    )


async def read_status(client: KubeClient, name: str) -> dict[str, Any]:
    status: dict[str, Any] = (await get_inventory(client, name)).get("status", {})
    return status


async def merge(client: KubeClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = await client.request(
        "PATCH", path, body=body, content_type=MERGE_PATCH
    )
    return answer


async def a_missing_object_is_not_found(client: KubeClient, prefix: str) -> None:
    with pytest.raises(errors.NotFound):
        await get_inventory(client, prefix)
    with pytest.raises(errors.NotFound):
        await delete_inventory(client, name=prefix, uid=NOT_A_UID, resource_version="1")
    with pytest.raises(errors.NotFound):
        await patch_inventory_labels(client, name=prefix, resource_version="1", changes={"a": "b"})


async def an_apply_to_a_missing_object_is_not_found(client: KubeClient, prefix: str) -> None:
    with pytest.raises(errors.NotFound):
        await apply_status(
            client,
            name=prefix,
            uid=NOT_A_UID,
            resource_version="1",
            status={"sequence": 1},
            manager=MANAGER,
            force=True,
        )


async def a_name_is_created_once(client: KubeClient, prefix: str) -> None:
    meta = await create_inventory(client, name=prefix, labels={})
    with pytest.raises(errors.AlreadyExists):
        await create_inventory(client, name=prefix, labels={})
    assert InventoryMeta.from_object(await get_inventory(client, prefix)) == meta


async def a_new_object_has_generation_1_and_metadata(client: KubeClient, prefix: str) -> None:
    meta = await create_inventory(client, name=prefix, labels={LABEL: "a"})
    body = await get_inventory(client, prefix)
    assert meta.generation == 1
    assert body["spec"] == {}
    assert body["metadata"]["name"] == prefix
    assert body["metadata"]["labels"] == {LABEL: "a", MANAGED_BY_LABEL: MANAGER}
    assert body["metadata"]["creationTimestamp"].endswith("Z")


async def a_post_drops_the_status(client: KubeClient, prefix: str) -> None:
    body = {
        "apiVersion": API_VERSION,
        "kind": INVENTORY_KIND,
        "metadata": {"name": prefix},
        "spec": {},
        "status": {"sequence": 7},
    }
    answer = await client.request("POST", INVENTORIES, body=body)
    assert "status" not in answer
    assert "status" not in await get_inventory(client, prefix)


async def only_the_subresource_writes_the_status(client: KubeClient, prefix: str) -> None:
    await create_inventory(client, name=prefix, labels={})
    await write(client, prefix, {"sequence": 1})
    body = {"spec": {"suspend": True}, "status": {"sequence": 2}}
    await merge(client, item(INVENTORIES, prefix), body)
    found = await get_inventory(client, prefix)
    assert (found["spec"], found["status"]) == ({"suspend": True}, {"sequence": 1})
    body = {"spec": {"suspend": False}, "status": {"sequence": 3}}
    await merge(client, f"{item(INVENTORIES, prefix)}/status", body)
    found = await get_inventory(client, prefix)
    assert (found["spec"], found["status"]) == ({"suspend": True}, {"sequence": 3})


async def the_generation_rises_with_the_spec_only(client: KubeClient, prefix: str) -> None:
    meta = await create_inventory(client, name=prefix, labels={})
    await write(client, prefix, {"sequence": 1})
    await merge(client, item(INVENTORIES, prefix), {"metadata": {"labels": {LABEL: "a"}}})
    found = InventoryMeta.from_object(await get_inventory(client, prefix))
    assert found.generation == 1
    assert found.resource_version != meta.resource_version
    answer = await merge(client, item(INVENTORIES, prefix), {"spec": {"suspend": True}})
    assert answer["metadata"]["generation"] == 2


async def an_apply_to_an_older_version_conflicts(client: KubeClient, prefix: str) -> None:
    meta = await create_inventory(client, name=prefix, labels={})
    await write(client, prefix, {"sequence": 1})
    with pytest.raises(errors.Conflict):
        await write(client, prefix, {"sequence": 2}, version=meta.resource_version)
    assert await read_status(client, prefix) == {"sequence": 1}


async def an_identical_apply_keeps_the_version(client: KubeClient, prefix: str) -> None:
    await create_inventory(client, name=prefix, labels={})
    version = await write(client, prefix, {"sequence": 1, "state": "Present"})
    assert await write(client, prefix, {"sequence": 1, "state": "Present"}) == version
    assert await write(client, prefix, {"sequence": 2, "state": "Present"}) != version


async def an_apply_removes_the_fields_that_it_leaves_out(client: KubeClient, prefix: str) -> None:
    await create_inventory(client, name=prefix, labels={})
    await write(client, prefix, {"sequence": 1, "product": "X", "serials": ["1", "2"]})
    await write(client, prefix, {"sequence": 2, "serials": ["2"]})
    assert await read_status(client, prefix) == {"sequence": 2, "serials": ["2"]}


async def an_apply_keeps_the_fields_of_other_managers(client: KubeClient, prefix: str) -> None:
    await create_inventory(client, name=prefix, labels={})
    await write(client, prefix, {"sequence": 1}, manager="one")
    await write(client, prefix, {"product": "X"}, manager="two")
    await write(client, prefix, {"sequence": 2}, manager="one")
    assert await read_status(client, prefix) == {"sequence": 2, "product": "X"}


async def a_field_that_two_managers_own_stays_until_both_leave_it(
    client: KubeClient, prefix: str
) -> None:
    await create_inventory(client, name=prefix, labels={})
    for manager in ("one", "two"):
        await write(client, prefix, {"sequence": 1, "product": "X"}, manager=manager, force=False)
    await write(client, prefix, {"sequence": 1}, manager="one")
    assert await read_status(client, prefix) == {"sequence": 1, "product": "X"}
    await write(client, prefix, {"sequence": 1}, manager="two")
    assert await read_status(client, prefix) == {"sequence": 1}


async def another_value_of_another_manager_conflicts_unless_forced(
    client: KubeClient, prefix: str
) -> None:
    await create_inventory(client, name=prefix, labels={})
    await write(client, prefix, {"sequence": 1, "product": "X"}, manager="one")
    with pytest.raises(errors.Conflict, match="one"):
        await write(client, prefix, {"product": "Y"}, manager="two", force=False)
    assert await read_status(client, prefix) == {"sequence": 1, "product": "X"}
    await write(client, prefix, {"product": "Y"}, manager="two", force=True)
    assert await read_status(client, prefix) == {"sequence": 1, "product": "Y"}
    # The field has one owner now: the first manager leaves it out, and it stays.
    await write(client, prefix, {"sequence": 1}, manager="one")
    assert await read_status(client, prefix) == {"sequence": 1, "product": "Y"}


async def two_managers_share_an_item_of_a_list_map(client: KubeClient, prefix: str) -> None:
    await create_inventory(client, name=prefix, labels={})
    await write(client, prefix, {"checks": [{"name": "c", "passed": True}]}, manager="runner")
    recorded = {"checks": [{"name": "c", "recorded": 1}]}
    await write(client, prefix, recorded, manager=MANAGER, force=False)
    status = await read_status(client, prefix)
    assert status == {"checks": [{"name": "c", "passed": True, "recorded": 1}]}
    with pytest.raises(errors.Conflict, match="runner"):
        contested = {"checks": [{"name": "c", "recorded": 1, "passed": False}]}
        await write(client, prefix, contested, manager=MANAGER, force=False)


async def an_item_of_a_list_map_goes_with_its_last_manager(client: KubeClient, prefix: str) -> None:
    await create_inventory(client, name=prefix, labels={})
    both = {"checks": [{"name": "a", "passed": True}, {"name": "b", "passed": True}]}
    await write(client, prefix, both, manager="runner")
    await write(client, prefix, {"checks": [{"name": "a", "recorded": 1}]}, manager=MANAGER)
    await write(client, prefix, {"sequence": 1}, manager="runner")
    assert await read_status(client, prefix) == {
        "sequence": 1,
        "checks": [{"name": "a", "recorded": 1}],
    }


async def a_merge_patch_sets_and_removes_labels(client: KubeClient, prefix: str) -> None:
    meta = await create_inventory(client, name=prefix, labels={LABEL: "a", "example.com/b": "b"})
    version = await patch_inventory_labels(
        client,
        name=prefix,
        resource_version=meta.resource_version,
        changes={LABEL: "c", "example.com/b": None, "example.com/absent": None},
    )
    body = await get_inventory(client, prefix)
    assert body["metadata"]["labels"] == {LABEL: "c", MANAGED_BY_LABEL: MANAGER}
    assert body["metadata"]["resourceVersion"] == version != meta.resource_version


async def a_merge_patch_of_an_older_version_conflicts(client: KubeClient, prefix: str) -> None:
    meta = await create_inventory(client, name=prefix, labels={})
    await write(client, prefix, {"sequence": 1})
    with pytest.raises(errors.Conflict):
        await patch_inventory_labels(
            client, name=prefix, resource_version=meta.resource_version, changes={LABEL: "a"}
        )


async def a_merge_patch_that_changes_nothing_keeps_the_version(
    client: KubeClient, prefix: str
) -> None:
    meta = await create_inventory(client, name=prefix, labels={LABEL: "a"})
    version = await patch_inventory_labels(
        client, name=prefix, resource_version=meta.resource_version, changes={LABEL: "a"}
    )
    assert version == meta.resource_version


async def a_delete_needs_the_uid_and_the_version(client: KubeClient, prefix: str) -> None:
    old = await create_inventory(client, name=prefix, labels={})
    version = await write(client, prefix, {"sequence": 1})
    for uid, resource_version in ((NOT_A_UID, version), (old.uid, old.resource_version)):
        with pytest.raises(errors.Conflict):
            await delete_inventory(client, name=prefix, uid=uid, resource_version=resource_version)
    await delete_inventory(client, name=prefix, uid=old.uid, resource_version=version)
    new = await create_inventory(client, name=prefix, labels={})
    assert new.uid != old.uid
    assert new.generation == 1
    assert await read_status(client, prefix) == {}


WRITES: Final[tuple[Case, ...]] = (
    a_missing_object_is_not_found,
    an_apply_to_a_missing_object_is_not_found,
    a_name_is_created_once,
    a_new_object_has_generation_1_and_metadata,
    a_post_drops_the_status,
    only_the_subresource_writes_the_status,
    the_generation_rises_with_the_spec_only,
    an_apply_to_an_older_version_conflicts,
    an_identical_apply_keeps_the_version,
    an_apply_removes_the_fields_that_it_leaves_out,
    an_apply_keeps_the_fields_of_other_managers,
    a_field_that_two_managers_own_stays_until_both_leave_it,
    another_value_of_another_manager_conflicts_unless_forced,
    two_managers_share_an_item_of_a_list_map,
    an_item_of_a_list_map_goes_with_its_last_manager,
    a_merge_patch_sets_and_removes_labels,
    a_merge_patch_of_an_older_version_conflicts,
    a_merge_patch_that_changes_nothing_keeps_the_version,
    a_delete_needs_the_uid_and_the_version,
)
