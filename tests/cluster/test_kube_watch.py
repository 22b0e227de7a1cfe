"""The metadata watch on a real API server: nothing missed, whole objects never sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import ApiUnreachable, Gone, NotFound
from gpuid_operator.kube.inventories import (
    create_inventory,
    delete_inventory,
    get_inventory,
    inventory_pages,
    patch_inventory_labels,
    watch_inventories,
)
from gpuid_operator.kube.watch import MetadataEvent, watch_metadata
from gpuid_operator.localcluster import LocalCluster


@pytest.fixture
async def client(cluster: LocalCluster) -> AsyncIterator[KubeClient]:
    async with await KubeClient.connect(
        qps=1000, burst=1000, kubeconfig=cluster.kubeconfig
    ) as client:
        yield client


async def listed(client: KubeClient) -> str:
    version = ""
    async for page in inventory_pages(client):
        version = page["metadata"]["resourceVersion"]
    return version


async def take(events: AsyncIterator[MetadataEvent], count: int) -> list[MetadataEvent]:
    found: list[MetadataEvent] = []
    async with asyncio.timeout(30):
        async for event in events:
            if event.type != "BOOKMARK":
                found.append(event)
            if len(found) == count:
                break
    return found


async def test_all_that_happens_after_the_list_is_told(client: KubeClient) -> None:
    version = await listed(client)
    meta = await create_inventory(client, name="watched", labels={"a": "1"})
    await patch_inventory_labels(
        client, name="watched", resource_version=meta.resource_version, changes={"a": "2"}
    )
    body = await get_inventory(client, "watched")
    await delete_inventory(
        client,
        name="watched",
        uid=meta.uid,
        resource_version=body["metadata"]["resourceVersion"],
    )
    events = await take(watch_inventories(client, version=version), 3)
    assert [event.type for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert [event.metadata["labels"].get("a") for event in events] == ["1", "2", "2"]
    assert {event.metadata["uid"] for event in events} == {meta.uid}


async def test_a_watch_goes_on_from_any_of_its_events(client: KubeClient) -> None:
    version = await listed(client)
    for name in ("first", "second"):
        await create_inventory(client, name=name, labels={})
    (first,) = await take(watch_inventories(client, version=version), 1)
    (second,) = await take(watch_inventories(client, version=first.metadata["resourceVersion"]), 1)
    assert (first.metadata["name"], second.metadata["name"]) == ("first", "second")
    for name in ("first", "second"):
        meta = (await get_inventory(client, name))["metadata"]
        await delete_inventory(
            client, name=name, uid=meta["uid"], resource_version=meta["resourceVersion"]
        )


async def test_a_version_that_is_not_kept_any_more_is_said(client: KubeClient) -> None:
    with pytest.raises(Gone):
        await take(watch_inventories(client, version="1"), 1)


async def test_a_kind_that_is_not_served_is_said(client: KubeClient) -> None:
    with pytest.raises(NotFound):
        await take(watch_metadata(client, "/apis/gpuid.github.com/v1alpha1/none", version="1"), 1)


async def test_a_server_that_dies_is_noticed(local_cluster) -> None:  # type: ignore[no-untyped-def]
    cluster: LocalCluster = local_cluster(nodes=0)
    before = sockets()
    async with await KubeClient.connect(
        qps=1000, burst=1000, kubeconfig=cluster.kubeconfig
    ) as client:
        version = await listed(client)
        waiting = asyncio.create_task(take(watch_inventories(client, version=version), 2))
        await create_inventory(client, name="alive", labels={})
        await asyncio.to_thread(cluster.stop_apiserver)
        with pytest.raises(ApiUnreachable):
            await waiting
    # aiohttp closes a TLS connection in the background, and does not say when it is closed. If the
    # loop ends earlier, the garbage collector warns of the connection in a later test.
    async with asyncio.timeout(30):
        while sockets() - before:  # noqa: ASYNC110 - the end of a connection has no event
            await asyncio.sleep(0)


def sockets() -> set[str]:
    """The sockets that this process has open."""
    found = set()
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the folder that is listed is a file, too
            found.add(str(file.readlink()))
    return {name for name in found if name.startswith("socket:")}
