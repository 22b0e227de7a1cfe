"""The room kube on a real API server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from gpuid_operator.api.meta import API_VERSION, INVENTORY_KIND, MANAGED_BY_LABEL, MANAGER
from gpuid_operator.kube import discovery, events, inventories, leases, nodes, pods, policies
from gpuid_operator.kube import errors as kube
from gpuid_operator.kube.client import APPLY_PATCH, ONLY_METADATA, KubeClient
from gpuid_operator.kube.credentials import Credentials, FreshCredentials
from gpuid_operator.kube.exec import ExecResult, pod_exec
from gpuid_operator.kube.paging import list_pages
from gpuid_operator.kube.secrets import find_secret
from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request

INVENTORIES = f"/apis/{API_VERSION}/gpuinventories"
SELECTOR = "app=nvidia-device-plugin-daemonset"


@pytest.fixture
async def client(cluster: LocalCluster) -> AsyncIterator[KubeClient]:
    async with await KubeClient.connect(
        qps=1000, burst=1000, kubeconfig=cluster.kubeconfig
    ) as client:
        yield client


@pytest.fixture
def name(cluster: LocalCluster) -> Iterator[str]:
    """A name that nothing else has; objects of ours under it are gone afterwards."""
    name = f"kube-{uuid4().hex[:8]}"
    yield name
    for plural in ("gpuinventories", "gpuinventorypolicies"):
        path = f"/apis/{API_VERSION}/{plural}/{name}"
        cluster.client.send(Request("DELETE", path, tolerate=(404,)))


@asynccontextmanager
async def acting_with(cluster: LocalCluster, token: str) -> AsyncIterator[KubeClient]:
    class Source:
        async def load(self, *, rejected: bool) -> Credentials:
            return Credentials(
                server=cluster.server,
                authorization=f"Bearer {token}",
                ca_path=str(cluster.ca_file),
            )

    async with KubeClient(FreshCredentials(Source()), qps=1000, burst=1000) as client:
        yield client


@pytest.fixture
async def powerless(cluster: LocalCluster) -> AsyncIterator[KubeClient]:
    """A service account without any right."""
    account = "/api/v1/namespaces/default/serviceaccounts/default/token"
    granted = cluster.client.send(Request("POST", account, body={"spec": {}}))
    async with acting_with(cluster, granted["status"]["token"]) as client:
        yield client


async def apply(
    client: KubeClient, name: str, meta: inventories.InventoryMeta, **options: Any
) -> str:
    return await inventories.apply_status(
        client,
        name=name,
        **{
            "uid": meta.uid,
            "resource_version": meta.resource_version,
            "status": {"state": "Present", "sequence": 1},
            "manager": MANAGER,
            "force": True,
            **options,
        },
    )


async def test_an_inventory_is_created_once_with_an_empty_spec(
    client: KubeClient, name: str
) -> None:
    labels = {"serial.gpuid.github.com/1": "present"}
    meta = await inventories.create_inventory(client, name=name, labels=labels)
    body = await inventories.get_inventory(client, name)
    assert inventories.InventoryMeta.from_object(body) == meta
    assert meta.generation == 1
    assert body["spec"] == {}
    assert body["metadata"]["labels"] == {**labels, MANAGED_BY_LABEL: MANAGER}
    with pytest.raises(kube.AlreadyExists):
        await inventories.create_inventory(client, name=name, labels={})


async def test_a_status_is_applied_whole_and_only_to_the_version_it_was_made_for(
    client: KubeClient, name: str
) -> None:
    meta = await inventories.create_inventory(client, name=name, labels={})
    version = await apply(client, name, meta)
    assert version != meta.resource_version
    assert await apply(client, name, meta, resource_version=version) == version
    with pytest.raises(kube.Conflict):
        await apply(client, name, meta, status={"sequence": 2})
    newer = await apply(client, name, meta, resource_version=version, status={"sequence": 2})
    body = await inventories.get_inventory(client, name)
    assert body["status"] == {"sequence": 2}
    assert body["metadata"]["resourceVersion"] == newer


async def test_a_status_of_what_is_not_there_is_not_found(client: KubeClient, name: str) -> None:
    meta = inventories.InventoryMeta(uid=str(uuid4()), resource_version="1", generation=1)
    with pytest.raises(kube.NotFound):
        await apply(client, name, meta)


async def test_two_managers_meet_on_the_same_field_only(client: KubeClient, name: str) -> None:
    meta = await inventories.create_inventory(client, name=name, labels={})

    async def check(manager: str, version: str, **fields: Any) -> str:
        status = {"checks": [{"name": "c", **fields}]}
        return await apply(
            client,
            name,
            meta,
            resource_version=version,
            status=status,
            manager=manager,
            force=False,
        )

    version = await check("runner", meta.resource_version, passed=True)
    version = await check("inventory", version, recorded=1)
    with pytest.raises(kube.Conflict, match="runner"):
        await check("inventory", version, recorded=1, passed=False)
    body = await inventories.get_inventory(client, name)
    assert body["status"]["checks"] == [{"name": "c", "passed": True, "recorded": 1}]


async def test_answers_to_applies_hold_metadata_only(client: KubeClient, name: str) -> None:
    await inventories.create_inventory(client, name=name, labels={})
    answer = await client.request(
        "PATCH",
        f"{INVENTORIES}/{name}/status",
        params={"fieldManager": "x", "force": "true"},
        body={
            "apiVersion": API_VERSION,
            "kind": INVENTORY_KIND,
            "metadata": {"name": name},
            "status": {"sequence": 3},
        },
        content_type=APPLY_PATCH,
        accept=ONLY_METADATA,
    )
    assert answer["kind"] == "PartialObjectMetadata"
    assert answer.keys() == {"kind", "apiVersion", "metadata"}


async def test_labels_of_an_inventory_are_set_and_removed(client: KubeClient, name: str) -> None:
    meta = await inventories.create_inventory(
        client, name=name, labels={"uuid.gpuid.github.com/a": "present"}
    )
    changes = {"uuid.gpuid.github.com/a": None, "uuid.gpuid.github.com/b": "past"}
    version = await inventories.patch_inventory_labels(
        client, name=name, resource_version=meta.resource_version, changes=changes
    )
    body = await inventories.get_inventory(client, name)
    assert body["metadata"]["labels"] == {
        MANAGED_BY_LABEL: MANAGER,
        "uuid.gpuid.github.com/b": "past",
    }
    assert body["metadata"]["resourceVersion"] == version
    with pytest.raises(kube.Conflict):
        await inventories.patch_inventory_labels(
            client, name=name, resource_version=meta.resource_version, changes=changes
        )


async def test_only_the_very_inventory_is_deleted(client: KubeClient, name: str) -> None:
    old = await inventories.create_inventory(client, name=name, labels={})
    version = await apply(client, name, old)
    for uid, resource_version in ((str(uuid4()), version), (old.uid, old.resource_version)):
        with pytest.raises(kube.Conflict):
            await inventories.delete_inventory(
                client, name=name, uid=uid, resource_version=resource_version
            )
    await inventories.delete_inventory(client, name=name, uid=old.uid, resource_version=version)
    with pytest.raises(kube.NotFound):
        await inventories.get_inventory(client, name)


async def test_lists_come_whole_however_small_their_pages(client: KubeClient, name: str) -> None:
    label = {"chassis.gpuid.github.com/kube": name}
    names = [f"{name}-{number}" for number in range(5)]
    made = {
        each: await inventories.create_inventory(client, name=each, labels=label) for each in names
    }
    selector = f"chassis.gpuid.github.com/kube={name}"
    listed = [
        body["metadata"]["name"]
        async for body in inventories.list_inventories(client, selector=selector, limit=2)
    ]
    assert listed == names
    pages = [
        len(page["items"])
        async for page in list_pages(
            client, INVENTORIES, params={"labelSelector": selector}, limit=2
        )
    ]
    assert pages == [2, 2, 1]
    for each, meta in made.items():
        await inventories.delete_inventory(
            client, name=each, uid=meta.uid, resource_version=meta.resource_version
        )


async def test_nodes_are_read_in_pages_and_labelled(
    client: KubeClient, cluster: LocalCluster
) -> None:
    listed = [facts async for facts in nodes.list_nodes(client, limit=1)]
    assert {facts.name for facts in listed} >= set(cluster.node_names)
    facts = await nodes.get_node(client, cluster.node_names[0])
    assert facts.provider_id is not None
    assert facts.provider_id.startswith("aws:///")
    assert facts.gpu_capacity == 8
    labelled = await label(client, facts.name, {"gpuid.github.com/kube-test": "1"})
    assert labelled.labels == {**facts.labels, "gpuid.github.com/kube-test": "1"}
    with pytest.raises(kube.Conflict):
        await nodes.patch_node_labels(client, facts, {"gpuid.github.com/kube-test": "2"})
    restored = await label(client, facts.name, {"gpuid.github.com/kube-test": None})
    assert restored.labels == facts.labels
    with pytest.raises(kube.NotFound):
        await nodes.get_node(client, "no/such node")


async def label(client: KubeClient, name: str, changes: dict[str, str | None]) -> nodes.NodeFacts:
    """Label a node, again when its heartbeat came between."""
    while True:
        facts = await nodes.get_node(client, name)
        try:
            version = await nodes.patch_node_labels(client, facts, changes)
        except kube.Conflict:
            continue
        assert version != facts.resource_version
        return await nodes.get_node(client, name)


async def test_the_status_of_a_policy_is_written_and_its_spec_is_not(
    client: KubeClient, cluster: LocalCluster, name: str
) -> None:
    spec = {"priority": 3}
    cluster.client.send(
        Request(
            "POST",
            f"/apis/{API_VERSION}/gpuinventorypolicies",
            body={
                "apiVersion": API_VERSION,
                "kind": "GPUInventoryPolicy",
                "metadata": {"name": name},
                "spec": spec,
            },
        )
    )

    async def read() -> dict[str, Any]:
        (body,) = [
            body
            for body in await policies.list_policies(client)
            if body["metadata"]["name"] == name
        ]
        return body

    async def write(version: str) -> str:
        return await policies.apply_policy_status(
            client,
            name=name,
            resource_version=version,
            status={"matchedNodes": 2},
            manager=MANAGER,
        )

    before = (await read())["metadata"]["resourceVersion"]
    version = await write(before)
    body = await read()
    assert (body["spec"], body["status"]) == (spec, {"matchedNodes": 2})
    assert body["metadata"]["resourceVersion"] == version
    with pytest.raises(kube.Conflict):
        await policies.apply_policy_status(
            client, name=name, resource_version=before, status={}, manager=MANAGER
        )


async def test_events_of_an_inventory_are_found_by_it(client: KubeClient, name: str) -> None:
    meta = await inventories.create_inventory(client, name=name, labels={})
    await events.post_event(
        client,
        involved=events.Involved(
            api_version=API_VERSION, kind=INVENTORY_KIND, name=name, uid=meta.uid
        ),
        reason="GPURemoved",
        message="m" * 2000,
        type=events.EventType.WARNING,
        now=datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC),
    )
    found = await client.request(
        "GET",
        "/api/v1/namespaces/default/events",
        params={"fieldSelector": f"involvedObject.uid={meta.uid}"},
    )
    (event,) = found["items"]
    assert (event["type"], event["reason"], event["count"]) == ("Warning", "GPURemoved", 1)
    assert event["message"] == "m" * 1024
    assert event["lastTimestamp"] == "2026-06-07T10:30:45Z"
    assert event["source"] == {"component": MANAGER}


async def test_an_event_that_is_refused_is_logged_and_forgotten(
    powerless: KubeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await events.post_event(
        powerless,
        involved=events.Involved(
            api_version=API_VERSION, kind=INVENTORY_KIND, name="n" * 253, uid="u"
        ),
        reason="GPUAdded",
        message="m",
    )
    assert "GPUAdded" in caplog.text
    assert "forbidden" in caplog.text


async def test_a_lease_has_one_writer_per_version(client: KubeClient, name: str) -> None:
    where: dict[str, Any] = {"namespace": "default", "name": name, "timeout": 5.0}
    with pytest.raises(kube.NotFound):
        await leases.get_lease(client, **where)
    now = datetime(2026, 6, 7, 10, 30, 45, 120, tzinfo=UTC)
    wanted = leases.LeaseRecord(
        holder="a",
        duration_seconds=15,
        acquire_time=now,
        renew_time=now,
        transitions=0,
    )
    first = await leases.create_lease(client, wanted, **where)
    assert first == await leases.get_lease(client, **where)
    assert first.renew_time == now
    with pytest.raises(kube.AlreadyExists):
        await leases.create_lease(client, wanted, **where)
    released = leases.LeaseRecord(
        holder="",
        duration_seconds=1,
        acquire_time=None,
        renew_time=None,
        transitions=1,
        resource_version=first.resource_version,
    )
    second = await leases.update_lease(client, released, **where)
    assert (second.holder, second.renew_time, second.transitions) == ("", None, 1)
    with pytest.raises(kube.Conflict):
        await leases.update_lease(client, released, **where)
    await client.request("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{name}")


async def test_a_secret_is_read_decoded_and_never_shown(client: KubeClient, name: str) -> None:
    path = "/api/v1/namespaces/default/secrets"
    await client.request(
        "POST",
        path,
        body={
            "metadata": {"name": name, "labels": {"a": "b"}, "annotations": {"c": "d"}},
            "stringData": {"password": "hünter2"},
        },
    )
    secret = await find_secret(client, namespace="default", name=name)
    assert secret is not None
    assert (secret.labels, secret.annotations) == ({"a": "b"}, {"c": "d"})
    assert secret.data == {"password": "hünter2".encode()}
    assert "nter2" not in repr(secret)
    await client.request("DELETE", f"{path}/{name}")
    assert await find_secret(client, namespace="default", name=name) is None


async def test_both_kinds_are_served_and_the_cluster_has_an_identity(client: KubeClient) -> None:
    assert await discovery.missing_kinds(client) == frozenset()
    assert len(await discovery.cluster_uid(client)) == 36


async def test_a_missing_right_names_itself(powerless: KubeClient, cluster: LocalCluster) -> None:
    with pytest.raises(kube.Forbidden, match=r"cannot list resource .*nodes") as caught:
        _ = [facts async for facts in nodes.list_nodes(powerless)]
    assert "grant" in caught.value.message
    pod = cluster.wait_plugin(cluster.node_names[0])["metadata"]
    with pytest.raises(kube.ExecForbidden, match="pods/exec"):
        await pod_exec(
            powerless,
            namespace=pod["namespace"],
            pod=pod["name"],
            container="nvidia-device-plugin",
            command=["nvidia-smi"],
            timeout=30,
            max_bytes=1000,
        )


async def test_a_wrong_token_is_unauthorized(cluster: LocalCluster) -> None:
    async with acting_with(cluster, "nobody") as client:
        with pytest.raises(kube.Unauthorized) as caught:
            await discovery.cluster_uid(client)
    assert "nobody" not in caught.value.message


async def target_on(client: KubeClient, node: str) -> pods.TargetPod:
    listed = [
        pods.TargetPod.from_pod(body, container="nvidia-device-plugin")
        async for body in pods.list_pods(client, namespace="gpu-operator", selector=SELECTOR)
    ]
    (target,) = [target for target in listed if target and target.node == node]
    return target


async def run(
    client: KubeClient, target: pods.TargetPod, *command: str, timeout: float = 30, **other: str
) -> ExecResult:
    return await pod_exec(
        client,
        namespace=target.namespace,
        pod=other.get("pod", target.name),
        container=other.get("container", target.container),
        command=command,
        timeout=timeout,
        max_bytes=1_000_000,
    )


async def test_a_command_in_a_target_pod(client: KubeClient, cluster: LocalCluster) -> None:
    node = cluster.node_names[0]
    cluster.wait_plugin(node)
    target = await target_on(client, node)
    assert target.ready
    assert target.controlled
    result = await run(client, target, "nvidia-smi", "-q", "-x")
    assert result == ExecResult(cluster.smi_file(node).read_bytes(), b"", 0)
    script = "printf 'a b\\n'; echo '*' >&2; exit 7"
    assert await run(client, target, "/bin/sh", "-c", script) == ExecResult(b"a b\n", b"*\n", 7)
    with pytest.raises(kube.CommandNotFound):
        await run(client, target, "/usr/local/nvidia/bin/nvidia-smi")
    with pytest.raises(kube.ExecPodGone):
        await run(client, target, "nvidia-smi", container="absent")
    with pytest.raises(kube.ExecPodGone):
        await run(client, target, "nvidia-smi", pod="absent")
    with pytest.raises(kube.ExecTimedOut) as caught:
        await run(client, target, "/bin/sh", "-c", "echo begun; exec sleep 60", timeout=5)
    assert caught.value.stdout == b"begun\n"


async def test_only_the_very_pod_is_deleted(client: KubeClient, cluster: LocalCluster) -> None:
    node = cluster.node_names[-1]
    cluster.wait_plugin(node)
    target = await target_on(client, node)
    where = {"namespace": target.namespace, "name": target.name}
    with pytest.raises(kube.Conflict):
        await pods.delete_pod(client, **where, uid=str(uuid4()))
    assert await pods.delete_pod(client, **where, uid=target.uid)
    assert not await pods.delete_pod(client, namespace="default", name="absent", uid=target.uid)
    assert cluster.wait_plugin(node)["metadata"]["uid"] != target.uid
