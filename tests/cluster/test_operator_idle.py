"""Where nothing changes, nothing is done: after a restart, and from one read to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

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
    inventory,
    is_delivered,
    status,
    writes,
)
from tests.support.resyncs import wait_for_resyncs
from tests.support.smi_fixtures import machine

NODES = [f"gpu-idle-{number}" for number in range(4)]
GONE = "gpu-idle-gone"
FAILING = "gpu-idle-failing"
WITHOUT_POD = "gpu-idle-without-pod"
POLICY = {
    "apiVersion": "gpuid.github.com/v1alpha1",
    "kind": "GPUInventoryPolicy",
    "metadata": {"name": "all"},
    "spec": {
        "sinks": [
            {"name": "all", "stdout": {}},
            {"name": "seen", "stdout": {}, "records": "sightings"},
        ]
    },
}


@pytest.fixture(scope="module")
def known(fleet: LocalCluster) -> Iterator[list[str]]:
    """Nodes of all kinds, known to an operator that ended."""
    fleet.client.send(Request("POST", POLICIES, POLICY))
    body = node_object(
        WITHOUT_POD,
        gpus=8,
        product="H100",
        instance_type="p5.48xlarge",
        provider_id=None,
        labels={"nvidia.com/gpu.present": "false"},
        object_bytes=None,
    )
    fleet.client.send(Request("POST", "/api/v1/nodes", body))
    for name in (*NODES, GONE):
        fleet.add_node(name, xml=machine(name))
    with Operator(fleet):
        for name in (*NODES, GONE):
            eventually(partial(settled, fleet, name))
        eventually(lambda: has_reason(fleet, WITHOUT_POD, "NoTargetPod"))
        fleet.delete_node(GONE)
        eventually(lambda: has_reason(fleet, GONE, "NodeNotFound"))
        eventually(lambda: has_matched(fleet, 5))
    yield NODES


def settled(fleet: LocalCluster, node: str) -> None:
    assert condition(fleet, node) == ("True", "ReadOK")
    assert condition(fleet, node, "Delivered") == ("True", "Delivered")


def has_reason(fleet: LocalCluster, node: str, reason: str) -> None:
    assert condition(fleet, node) == ("False", reason)
    is_delivered(fleet, node)


def has_matched(fleet: LocalCluster, count: int) -> None:
    assert fleet.client.get(f"{POLICIES}/all").get("status", {}).get("matchedNodes") == count


def versions(fleet: LocalCluster) -> dict[str, str]:
    items = fleet.client.get(INVENTORIES)["items"]
    return {one["metadata"]["name"]: one["metadata"]["resourceVersion"] for one in items}


def test_a_restart_where_nothing_changed_does_nothing(
    fleet: LocalCluster, known: list[str]
) -> None:
    before = versions(fleet)
    assert before.keys() == {*known, GONE, WITHOUT_POD}
    written = len(writes(fleet))
    runs = {name: len(fleet.exec_log(name)) for name in known}
    # Time enough for every loop to have gone round, and for the second look.
    periods = {"resync": 2.0, "catch_up": 1.0}
    with Operator(fleet, periods=periods) as operator:
        wait_for_resyncs(fleet)
    assert {name: len(fleet.exec_log(name)) for name in known} == runs
    assert writes(fleet)[written:] == []
    assert operator.records() == []
    assert versions(fleet) == before


def test_between_two_reads_nothing_is_written(fleet: LocalCluster, known: list[str]) -> None:
    runs = {name: len(fleet.exec_log(name)) for name in known}
    start = len(writes(fleet))
    before = {name: len(writes(fleet, name=name)) for name in known}
    with Operator(fleet, RESYNC="3s") as operator:

        def read_thrice() -> None:
            for name in known:
                assert len(fleet.exec_log(name)) >= runs[name] + 3

        eventually(read_thrice)
    assert set(writes(fleet)[start:]) == {"patch gpuinventories/status"}
    for name in known:
        made = len(writes(fleet, name=name)) - before[name]
        reads = fleet.exec_log(name)[runs[name] :]
        # The end of the operator may have cut off the last read.
        assert made in {len(reads), len(reads) - 1}
    assert operator.records() == []
    for name in known:
        assert len(status(fleet, name)["history"]) == 3


def test_a_failing_node_costs_one_write_per_change_of_the_reason(
    fleet: LocalCluster, known: list[str]
) -> None:
    fleet.add_node(FAILING, xml=machine(FAILING))
    fleet.set_behaviour(FAILING, stdout="", exit=1)
    before = len(writes(fleet))
    matched = fleet.client.get(f"{POLICIES}/all")["status"]["matchedNodes"]
    with Operator(fleet):

        def tried_thrice() -> None:
            assert len(fleet.exec_log(FAILING)) >= 3

        eventually(tried_thrice)
        eventually(lambda: has_matched(fleet, matched + 1))
    made = Counter(writes(fleet)[before:])
    # The policy's status counts one node more.
    assert made.pop("patch gpuinventorypolicies/status") == 1
    assert made == {"create gpuinventories": 1, "patch gpuinventories/status": 1}
    assert inventory(fleet, FAILING)["status"]["sequence"] == 0
