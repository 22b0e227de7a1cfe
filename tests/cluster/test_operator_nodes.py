"""Nodes that come, go, return as another machine, or lose their pod."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from gpuid_operator.localcluster.nodes import node as node_object
from tests.support.operators import (
    INVENTORIES,
    POLICIES,
    Operator,
    condition,
    eventually,
    history,
    inventory,
    node_labels,
    read_well,
    status,
    types,
)
from tests.support.smi_fixtures import machine, swapped, uuids

LABELS = "gpuid.github.com"
PERIODS = {"resync": 1.0, "pod_grace": 1.5}
SHORT = {"team": "short"}
"""Label of the nodes whose inventories are kept for a moment only."""


@pytest.fixture(scope="module")
def operator(fleet: LocalCluster) -> Iterator[Operator]:
    policy = {
        "apiVersion": f"{LABELS}/v1alpha1",
        "kind": "GPUInventoryPolicy",
        "metadata": {"name": "short"},
        "spec": {"retention": "2s", "nodeSelector": {"matchLabels": SHORT}, "sinks": []},
    }
    fleet.client.send(Request("POST", POLICIES, policy))
    with Operator(fleet, periods=PERIODS) as operator:
        yield operator


@pytest.fixture
def node(fleet: LocalCluster, numbers: Iterator[int]) -> str:
    """The name of a node that is not there yet."""
    return f"gpu-nodes-{next(numbers)}"


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count()


def is_present(fleet: LocalCluster, node: str) -> None:
    read_well(fleet, node)
    assert status(fleet, node)["state"] == "Present"


def departed(fleet: LocalCluster, node: str) -> None:
    assert status(fleet, node)["state"] == "Departed"
    labels = inventory(fleet, node)["metadata"]["labels"]
    assert "present" not in labels.values()


def new_entries(fleet: LocalCluster, node: str, after: int) -> list[dict[str, Any]]:
    return [entry for entry in history(fleet, node) if entry["sequence"] > after]


def test_a_node_departs_and_returns(fleet: LocalCluster, operator: Operator, node: str) -> None:
    xml = machine(node)
    fleet.add_node(node, xml=xml, provider_id="aws:///us-east-1a/i-first")
    eventually(lambda: is_present(fleet, node))
    before = status(fleet, node)
    fleet.delete_node(node)
    eventually(lambda: departed(fleet, node))
    gone = status(fleet, node)
    entries = new_entries(fleet, node, before["sequence"])
    assert types(entries) == ["GPURemoved", "GPURemoved", "NodeDeparted"]
    assert [entry.get("uuid") for entry in entries] == [*uuids(xml), None]
    assert {entry["machine"] for entry in entries} == {"i-first"}
    assert gone["gpus"] == before["gpus"]
    assert "Sighted" not in types(gone["history"])
    assert condition(fleet, node) == ("False", "NodeNotFound")
    fleet.add_node(node, xml=xml, provider_id="aws:///us-east-1a/i-second")
    eventually(lambda: is_present(fleet, node))
    entries = new_entries(fleet, node, gone["sequence"])
    assert types(entries) == ["NodeReturned", "GPUAdded", "GPUAdded"]
    assert (entries[0]["from"], entries[0]["to"]) == ("i-first", "i-second")
    assert {entry["machine"] for entry in entries} == {"i-second"}

    def labelled() -> None:
        labels = inventory(fleet, node)["metadata"]["labels"]
        assert {labels[f"uuid.{LABELS}/{uuid}"] for uuid in uuids(xml)} == {"present"}
        assert node_labels(fleet, node).keys() == {"gpu-0", "gpu-1"}

    eventually(labelled)


def test_what_happened_while_the_operator_was_down_is_found(
    fleet: LocalCluster, operator: Operator, numbers: Iterator[int]
) -> None:
    names = [f"gpu-nodes-{next(numbers)}" for _ in range(4)]
    swap, replaced, left, unchanged = names
    for name in names:
        fleet.add_node(name, xml=machine(name), provider_id=f"aws:///us-east-1a/i-{name}")
    for name in names:
        eventually(partial(is_present, fleet, name))
    before = {name: status(fleet, name) for name in names}
    assert operator.terminate() == 0
    fleet.write_smi(swap, swapped(machine(swap), 0, f"{swap}-spare"))
    fleet.restart_plugin(swap)
    fleet.delete_node(replaced)
    other = machine(f"{replaced}-other")
    fleet.add_node(replaced, xml=other, provider_id="aws:///us-east-1a/i-other")
    fleet.delete_node(left)
    operator.restart()

    def entries(name: str) -> list[str]:
        return types(new_entries(fleet, name, before[name]["sequence"]))

    def found() -> None:
        assert entries(swap) == ["GPURemoved", "GPUAdded"]
        assert entries(replaced) == ["MachineChanged", *["GPURemoved"] * 2, *["GPUAdded"] * 2]
        assert entries(left) == ["GPURemoved", "GPURemoved", "NodeDeparted"]

    eventually(found)
    changed = new_entries(fleet, replaced, before[replaced]["sequence"])
    assert (changed[0]["from"], changed[0]["to"]) == (f"i-{replaced}", "i-other")
    assert [entry["machine"] for entry in changed[1:]] == [f"i-{replaced}"] * 2 + ["i-other"] * 2
    assert [entry["uuid"] for entry in changed[1:]] == uuids(machine(replaced)) + uuids(other)
    assert status(fleet, unchanged) == before[unchanged]


def test_another_node_object_is_another_machine(
    fleet: LocalCluster, operator: Operator, node: str
) -> None:
    """A Node that is deleted and created under its pods, as when a kubelet registers again."""
    fleet.add_node(node, xml=machine(node))
    eventually(lambda: is_present(fleet, node))
    before = status(fleet, node)
    body = fleet.client.get(f"/api/v1/nodes/{node}")
    del body["metadata"]["resourceVersion"], body["metadata"]["uid"]
    fleet.client.send(Request("DELETE", f"/api/v1/nodes/{node}"))
    fleet.client.send(Request("POST", "/api/v1/nodes", body))
    fleet.wait_plugin(node)
    fleet.restart_plugin(node)

    def changed() -> None:
        assert status(fleet, node)["node"]["uid"] != before["node"]["uid"]

    eventually(changed)
    (entry,) = new_entries(fleet, node, before["sequence"])
    assert entry["type"] == "MachineChanged"
    assert entry["from"] == f"node {before['node']['uid']}"


def test_a_node_whose_pod_goes_first_departs_when_it_follows(
    fleet: LocalCluster, operator: Operator, node: str
) -> None:
    fleet.add_node(node, xml=machine(node))
    eventually(lambda: is_present(fleet, node))
    fleet.kubectl("label", "node", node, "nvidia.com/gpu.present=false", "--overwrite")

    def without_pod() -> None:
        assert condition(fleet, node) == ("False", "NoTargetPod")

    eventually(without_pod)
    assert len(status(fleet, node)["gpus"]) == 2
    fleet.kubectl("label", "node", node, "nvidia.com/gpu.present=true", "--overwrite")
    eventually(lambda: is_present(fleet, node))
    assert types(history(fleet, node)) == ["GPUAdded", "GPUAdded"]
    fleet.kubectl("label", "node", node, "nvidia.com/gpu.present=false", "--overwrite")
    eventually(without_pod)
    fleet.client.send(Request("DELETE", f"/api/v1/nodes/{node}"))
    eventually(lambda: departed(fleet, node))


def test_a_gpu_node_without_a_pod_is_found_by_the_next_look(
    fleet: LocalCluster, operator: Operator, node: str
) -> None:
    for name, gpus in ((node, 8), (f"{node}-cpu", 0)):
        body = node_object(
            name,
            gpus=gpus,
            product="H100",
            instance_type="p5.48xlarge",
            provider_id=None,
            labels={"nvidia.com/gpu.present": "false"},
            object_bytes=None,
        )
        fleet.client.send(Request("POST", "/api/v1/nodes", body))

    def without_pod() -> None:
        assert condition(fleet, node) == ("False", "NoTargetPod")

    eventually(without_pod)
    path = f"{INVENTORIES}/{node}-cpu"
    assert fleet.client.send(Request("GET", path, tolerate=(404,))) is None


def test_departed_inventories_that_are_ours_end_after_their_retention(
    fleet: LocalCluster, operator: Operator, numbers: Iterator[int]
) -> None:
    ours, kept, foreign = (f"gpu-nodes-{next(numbers)}" for _ in range(3))
    body = {
        "apiVersion": f"{LABELS}/v1alpha1",
        "kind": "GPUInventory",
        "metadata": {"name": foreign},
        "spec": {"suspend": False},
    }
    fleet.client.send(Request("POST", INVENTORIES, body))
    fleet.add_node(ours, xml=machine(ours), labels=SHORT)
    fleet.add_node(kept, xml=machine(kept))
    fleet.add_node(foreign, xml=machine(foreign), labels=SHORT)
    for name in (ours, kept, foreign):
        eventually(partial(is_present, fleet, name))
    assert status(fleet, ours)["policy"] == "short"
    assert inventory(fleet, foreign)["spec"] == {"suspend": False}
    for name in (foreign, kept, ours):
        fleet.delete_node(name)

    def gone() -> None:
        path = f"{INVENTORIES}/{ours}"
        assert fleet.client.send(Request("GET", path, tolerate=(404,))) is None

    eventually(gone)
    departed(fleet, kept)
    departed(fleet, foreign)


def test_a_node_that_returns_within_its_retention_goes_on(
    fleet: LocalCluster, operator: Operator, node: str
) -> None:
    fleet.add_node(node, xml=machine(node), labels=SHORT)
    eventually(lambda: is_present(fleet, node))
    uid = inventory(fleet, node)["metadata"]["uid"]
    fleet.delete_node(node)
    fleet.add_node(node, xml=machine(node), labels=SHORT)

    def returned() -> None:
        is_present(fleet, node)
        assert status(fleet, node)["node"]["uid"] == real["metadata"]["uid"]

    real = fleet.client.get(f"/api/v1/nodes/{node}")
    eventually(returned)
    assert inventory(fleet, node)["metadata"]["uid"] == uid
    assert types(history(fleet, node))[-3:] in (
        ["NodeReturned", "GPUAdded", "GPUAdded"],
        ["GPUAdded", "GPUAdded", "MachineChanged"],
    )
