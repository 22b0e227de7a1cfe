"""Answers, lists and watches, as cases that hold for the fake API server and for a real one.

`CASES` also contains the cases of kube_cases: all that both servers have in common.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final

import pytest

from gpuid_operator.api.meta import API_VERSION, GPU_RESOURCE, INVENTORY_KIND, MANAGER
from gpuid_operator.kube import errors
from gpuid_operator.kube.client import (
    APPLY_PATCH,
    MERGE_PATCH,
    ONLY_METADATA,
    ONLY_METADATA_LIST,
    KubeClient,
    item,
)
from gpuid_operator.kube.discovery import missing_kinds
from gpuid_operator.kube.inventories import (
    create_inventory,
    delete_inventory,
    inventory_pages,
    list_inventories,
    watch_inventories,
)
from gpuid_operator.kube.node_marks import NodeMarks
from gpuid_operator.kube.nodes import list_node_metadata
from gpuid_operator.kube.paging import list_pages
from gpuid_operator.kube.pods import may_list_pods
from gpuid_operator.kube.resource_slices import (
    get_slice,
    served_collection,
    slice_facts,
    slice_pages,
    watch_slices,
)
from gpuid_operator.kube.watch import MetadataEvent
from tests.support.kube import DRA, NODES
from tests.support.kube_cases import INVENTORIES, LABEL, WRITES, Case, write
from tests.support.resource_slices import gpus, resource_slice

NODE_INFO: Final = dict.fromkeys(
    (
        "architecture",
        "bootID",
        "containerRuntimeVersion",
        "kernelVersion",
        "kubeProxyVersion",
        "kubeletVersion",
        "machineID",
        "operatingSystem",
        "osImage",
        "systemUUID",
    ),
    "case",
)
READY: Final = {"type": "Ready", "status": "True", "reason": "Case", "message": "case"}


async def a_list_comes_in_pages_of_one_snapshot(client: KubeClient, prefix: str) -> None:
    names = [f"{prefix}-{index}" for index in range(5)]
    for name in reversed(names):
        await create_inventory(client, name=name, labels={LABEL: prefix})
    pages = list_pages(client, INVENTORIES, params={"labelSelector": f"{LABEL}={prefix}"}, limit=2)
    first = await anext(pages)
    assert first["metadata"]["continue"]
    await create_inventory(client, name=f"{prefix}-late", labels={LABEL: prefix})
    rest = [page async for page in pages]
    found = [[body["metadata"]["name"] for body in page["items"]] for page in (first, *rest)]
    assert found == [names[:2], names[2:4], names[4:]]
    assert {page["metadata"]["resourceVersion"] for page in (first, *rest)} == {
        first["metadata"]["resourceVersion"]
    }
    assert rest[-1]["metadata"]["continue"] == ""


async def label_selectors_select(client: KubeClient, prefix: str) -> None:
    for name, value in (("a", "1"), ("b", "2"), ("c", "3")):
        labels = {"example.com/of": prefix, LABEL: value}
        await create_inventory(client, name=f"{prefix}-{name}", labels=labels)
    await create_inventory(client, name=f"{prefix}-d", labels={"example.com/of": prefix})

    async def selected(selector: str) -> str:
        query = f"example.com/of={prefix},{selector}"
        return "".join(
            [
                body["metadata"]["name"][-1]
                async for body in list_inventories(client, selector=query)
            ]
        )

    assert await selected(f"{LABEL}=1") == "a"
    assert await selected(f"{LABEL}==2") == "b"
    assert await selected(f"{LABEL}!=1") == "bcd"
    assert await selected(f"{LABEL} in (1,3)") == "ac"
    assert await selected(f"{LABEL} notin (1, 3)") == "bd"
    assert await selected(LABEL) == "abc"
    assert await selected(f"!{LABEL}") == "d"


async def a_watch_sees_what_happens_after_the_list(client: KubeClient, prefix: str) -> None:
    await create_inventory(client, name=f"{prefix}-before", labels={})
    version = ""
    async for page in inventory_pages(client):
        version = page["metadata"]["resourceVersion"]
    meta = await create_inventory(client, name=prefix, labels={})
    changed = await write(client, prefix, {"sequence": 1})
    await delete_inventory(client, name=prefix, uid=meta.uid, resource_version=changed)
    events = await watched(watch_inventories(client, version=version), prefix, 3)
    assert [event.type for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert {event.metadata["name"] for event in events} == {prefix}
    assert {event.metadata["uid"] for event in events} == {meta.uid}
    versions = [event.metadata["resourceVersion"] for event in events]
    assert versions[:2] == [meta.resource_version, changed]
    assert int(versions[2]) > int(changed)


async def watched(
    events: AsyncIterator[MetadataEvent], prefix: str, count: int
) -> list[MetadataEvent]:
    """The first events of objects whose names begin with `prefix`."""
    found: list[MetadataEvent] = []
    async with asyncio.timeout(30):
        async for event in events:
            if event.type != "BOOKMARK" and event.metadata["name"].startswith(prefix):
                found.append(event)
            if len(found) == count:
                break
    return found


async def a_watch_from_too_old_a_version_is_gone(client: KubeClient, prefix: str) -> None:
    with pytest.raises(errors.Gone):
        await anext(watch_inventories(client, version="1"))


async def both_kinds_are_discovered(client: KubeClient, prefix: str) -> None:
    assert await missing_kinds(client) == frozenset()


async def an_answer_is_metadata_where_only_that_is_accepted(
    client: KubeClient, prefix: str
) -> None:
    await create_inventory(client, name=prefix, labels={})
    answer = await client.request(
        "PATCH",
        f"{item(INVENTORIES, prefix)}/status",
        params={"fieldManager": MANAGER, "force": "true"},
        body={
            "apiVersion": API_VERSION,
            "kind": INVENTORY_KIND,
            "metadata": {"name": prefix},
            "status": {"sequence": 1},
        },
        content_type=APPLY_PATCH,
        accept=ONLY_METADATA,
    )
    assert answer.keys() == {"kind", "apiVersion", "metadata"}
    assert (answer["kind"], answer["apiVersion"]) == ("PartialObjectMetadata", "meta.k8s.io/v1")


async def the_metadata_of_a_list_is_a_list(client: KubeClient, prefix: str) -> None:
    """The media type of an object's metadata is refused for a list."""
    await create_inventory(client, name=prefix, labels={LABEL: prefix})
    params = {"labelSelector": f"{LABEL}={prefix}"}
    with pytest.raises(errors.ApiError) as caught:
        await client.request("GET", INVENTORIES, params=params, accept=ONLY_METADATA)
    assert caught.value.status == 406
    answer = await client.request("GET", INVENTORIES, params=params, accept=ONLY_METADATA_LIST)
    (found,) = answer["items"]
    assert "spec" not in found


async def the_metadata_of_an_empty_list_has_no_items(client: KubeClient, prefix: str) -> None:
    params = {"labelSelector": f"{LABEL}={prefix}"}
    answer = await client.request("GET", INVENTORIES, params=params, accept=ONLY_METADATA_LIST)
    assert answer["items"] is None
    pages = list_pages(client, INVENTORIES, params=params, accept=ONLY_METADATA_LIST)
    assert [page["items"] async for page in pages] == [[]]


async def the_metadata_of_a_node_shows_what_changed(client: KubeClient, prefix: str) -> None:
    """The times and fields of its managedFields tell, as NodeMarks reads them."""
    path = item(NODES, prefix)
    taint = {"key": LABEL, "value": "a", "effect": "NoSchedule"}
    body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": prefix},
        "spec": {"providerID": f"case:///{prefix}", "taints": [taint]},
    }
    await client.request("POST", NODES, body=body)
    try:
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        status = {"capacity": {"cpu": "1"}, "nodeInfo": NODE_INFO, "conditions": [ready]}
        await change(client, f"{path}/status", {"status": status})
        # The server taints a new Node, and a controller takes that off once it is ready.
        async with asyncio.timeout(30):
            taints = None
            while taints != [taint]:
                await asyncio.sleep(0.1)
                taints = (await client.request("GET", path))["spec"].get("taints")
        before = await marks(client, prefix)
        assert not before.has_capacity
        await change(client, path, {"metadata": {"labels": {LABEL: prefix}}}, manager="other")
        await change(client, f"{path}/status", {"status": {"conditions": [READY]}})
        beaten = await marks(client, prefix)
        assert beaten == replace(before, status=beaten.status)
        await change(client, path, {"spec": {"taints": [taint | {"value": "b"}]}})
        changed = await marks(client, prefix)
        assert changed == replace(beaten, spec=changed.spec) != beaten
        await change(client, path, {"spec": {"taints": None}})
        removed = await marks(client, prefix)
        assert removed == replace(changed, spec=removed.spec) != changed
        await change(client, f"{path}/status", {"status": {"capacity": {GPU_RESOURCE: "8"}}})
        added = await marks(client, prefix)
        assert added == replace(removed, status=added.status, has_capacity=True)
        await change(client, f"{path}/status", {"status": {"capacity": {GPU_RESOURCE: "0"}}})
        less = await marks(client, prefix)
        assert less == replace(added, status=less.status) != added
        await change(client, f"{path}/status", {"status": {"capacity": {GPU_RESOURCE: None}}})
        assert not (await marks(client, prefix)).has_capacity
    finally:
        await client.request("DELETE", path)


async def change(
    client: KubeClient, path: str, body: dict[str, Any], *, manager: str = MANAGER
) -> None:
    """Change a Node in another second than the last change: times have whole seconds."""
    node = path.removesuffix("/status")
    await client.request("GET", node)
    before = client.server_time
    assert before is not None
    now = before
    while now.replace(microsecond=0) == before.replace(microsecond=0):
        await asyncio.sleep(0.1)
        await client.request("GET", node)
        assert client.server_time is not None
        now = client.server_time
    params = {"fieldManager": manager}
    await client.request("PATCH", path, params=params, body=body, content_type=MERGE_PATCH)


async def marks(client: KubeClient, name: str) -> NodeMarks:
    """The marks of a Node as it is listed by its metadata."""
    (found,) = [meta async for meta in list_node_metadata(client) if meta.name == name]
    assert found.facts is None
    assert found.marks is not None
    return found.marks


async def pods_may_be_listed(client: KubeClient, prefix: str) -> None:
    del prefix  # nothing is written
    assert await may_list_pods(client, namespace="default") is None


async def slices_of_one_driver_are_listed_and_watched(client: KubeClient, prefix: str) -> None:
    collection = await served_collection(client)
    assert collection == f"{DRA}/v1/resourceslices"
    body = resource_slice(prefix, gpus("GPU-a"), name=prefix)
    other = resource_slice(prefix, [], name=f"{prefix}-other", driver="other.example.com")
    for one in (body, other):
        await client.request("POST", collection, body=one)
    (page,) = [page async for page in slice_pages(client, collection)]
    (listed,) = page["items"]
    assert slice_facts(listed) == slice_facts(body)
    assert (
        await get_slice(client, collection, prefix)
        == {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
        }
        | listed
    )
    (page,) = [page async for page in slice_pages(client, collection, only_metadata=True)]
    (item_,) = page["items"]
    assert "spec" not in item_
    assert item_["metadata"]["resourceVersion"] == listed["metadata"]["resourceVersion"]
    for one in (other, body):
        await client.request("DELETE", item(collection, one["metadata"]["name"]))
    version = page["metadata"]["resourceVersion"]
    async with asyncio.timeout(30):
        kind, gone = await anext(watch_slices(client, collection, version=version))
    assert (kind, slice_facts(gone)) == ("DELETED", slice_facts(body))


CASES: Final[tuple[Case, ...]] = (
    *WRITES,
    an_answer_is_metadata_where_only_that_is_accepted,
    a_list_comes_in_pages_of_one_snapshot,
    label_selectors_select,
    a_watch_sees_what_happens_after_the_list,
    a_watch_from_too_old_a_version_is_gone,
    both_kinds_are_discovered,
    slices_of_one_driver_are_listed_and_watched,
    the_metadata_of_a_list_is_a_list,
    the_metadata_of_an_empty_list_has_no_items,
    the_metadata_of_a_node_shows_what_changed,
    pods_may_be_listed,
)
