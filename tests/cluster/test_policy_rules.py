"""Which policy rules a node, what is in force there, and how soon a change is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from tests.support.check_scripts import delete_policies, policy_condition, put_policy
from tests.support.operators import (
    INVENTORIES,
    POLICIES,
    Operator,
    condition,
    eventually,
    inventory,
    node_labels,
    status,
)
from tests.support.smi_fixtures import machine, serials

EAST, WEST, LONE = NODES = ("gpu-east", "gpu-west", "gpu-lone")
POOLS = {EAST: "east", WEST: "west", LONE: "lone"}


@pytest.fixture(scope="module")
def nodes(fleet: LocalCluster) -> LocalCluster:
    for name, pool in POOLS.items():
        fleet.add_node(name, xml=machine(name), labels={"pool": pool})
    return fleet


@pytest.fixture(scope="module")
def operator(nodes: LocalCluster) -> Iterator[Operator]:
    with Operator(nodes) as operator:
        for node in NODES:
            eventually(partial(read, nodes, node))
        yield operator


@pytest.fixture
def cluster(nodes: LocalCluster, operator: Operator) -> Iterator[LocalCluster]:
    yield nodes
    delete_policies(nodes)
    for node in NODES:
        spec(nodes, node, suspend=None, sinks=None)
        eventually(partial(ruled, nodes, node, ""))


def read(cluster: LocalCluster, node: str) -> None:
    assert condition(cluster, node) == ("True", "ReadOK")


def ruled(cluster: LocalCluster, node: str, policy: str) -> None:
    assert status(cluster, node).get("policy", "") == policy


def spec(cluster: LocalCluster, node: str, **fields: Any) -> None:
    """Edit the inventory's own spec, as a user does."""
    body = {"spec": fields}
    cluster.client.send(Request("PATCH", f"{INVENTORIES}/{node}", body, content_type=MERGE))


def pool(*names: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": "pool", "operator": "In", "values": list(names)}]}


def sinks(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "stdout": {}} for name in names]


def sinks_of(cluster: LocalCluster, node: str) -> list[str]:
    return sorted(sink["name"] for sink in status(cluster, node).get("sinks", ()))


def has_sinks(cluster: LocalCluster, node: str, *names: str) -> None:
    assert sinks_of(cluster, node) == sorted(names)
    assert condition(cluster, node, "Delivered")[0] == "True"


def counted(cluster: LocalCluster, policy: str, nodes: int) -> None:
    found = cluster.client.get(f"{POLICIES}/{policy}").get("status", {})
    assert found.get("matchedNodes") == nodes


def test_selector_and_priority(cluster: LocalCluster) -> None:
    put_policy(cluster, "all", sinks=sinks("all"))
    put_policy(cluster, "east", priority=5, nodeSelector=pool("east"), sinks=sinks("east"))
    put_policy(cluster, "weak", priority=-5, nodeSelector=pool("west"), sinks=sinks("weak"))
    for node, policy in ((EAST, "east"), (WEST, "all"), (LONE, "all")):
        eventually(partial(ruled, cluster, node, policy))
        eventually(partial(has_sinks, cluster, node, policy))
    for policy, count in (("all", 2), ("east", 1), ("weak", 0)):
        eventually(partial(counted, cluster, policy, count))
        assert policy_condition(cluster, policy, "Conflict")[:2] == ("False", "NoConflict")
    table = cluster.kubectl("get", "gpupol").stdout.splitlines()
    assert [line.split()[:5] for line in table] == [
        ["NAME", "PRIORITY", "NODES", "READY", "CONFLICT"],
        ["all", "0", "2", "True", "False"],
        ["east", "5", "1", "True", "False"],
        ["weak", "-5", "0", "True", "False"],
    ]
    cluster.kubectl("delete", "gpupol", "east")
    eventually(lambda: ruled(cluster, EAST, "all"))
    eventually(lambda: counted(cluster, "all", 3))


def test_ties_go_to_the_oldest_policy_then_to_the_first_name_and_both_report_conflict(
    cluster: LocalCluster,
) -> None:
    put_policy(cluster, "z-old", nodeSelector=pool("east", "west"))
    eventually(lambda: ruled(cluster, EAST, "z-old"))
    # Times are of whole seconds: the next one has to be younger.
    born = cluster.client.get(f"{POLICIES}/z-old")["metadata"]["creationTimestamp"]
    eventually(lambda: is_later(born))
    put_policy(cluster, "a-young", nodeSelector=pool("west", "lone"))
    put_policy(cluster, "stranger", priority=1, nodeSelector=pool("nowhere"))

    def settled() -> None:
        for node, policy in ((EAST, "z-old"), (WEST, "z-old"), (LONE, "a-young")):
            ruled(cluster, node, policy)
        for name, other in (("z-old", "a-young"), ("a-young", "z-old")):
            state, reason, message = policy_condition(cluster, name, "Conflict")
            assert (state, reason) == ("True", "SamePriority")
            assert other in message
        counted(cluster, "z-old", 2)
        counted(cluster, "a-young", 1)
        assert policy_condition(cluster, "stranger", "Conflict")[0] == "False"

    eventually(settled)
    put_policy(cluster, "a-young", nodeSelector=pool("west", "lone"), priority=1)

    def resolved() -> None:
        ruled(cluster, WEST, "a-young")
        for name in ("z-old", "a-young"):
            assert policy_condition(cluster, name, "Conflict")[0] == "False"

    eventually(resolved)
    delete_policies(cluster)
    twins = [
        {
            "apiVersion": "gpuid.github.com/v1alpha1",
            "kind": "GPUInventoryPolicy",
            "metadata": {"name": name},
            "spec": {},
        }
        for name in ("twin-b", "twin-a")
    ]
    for attempt in range(10):
        cluster.client.send_all(Request("POST", POLICIES, twin) for twin in twins)
        items = cluster.client.get(POLICIES)["items"]
        if len({item["metadata"]["creationTimestamp"] for item in items}) == 1:
            break
        delete_policies(cluster)
        assert attempt < 9, "never born within one second"
    eventually(lambda: ruled(cluster, EAST, "twin-a"))


def is_later(than: str) -> None:
    assert time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > than


def arrivals(operator: Operator, gpu: str) -> int:
    """How many records say that it came."""
    return sum((line["event"], line["gpu"]) == ("GPUAdded", gpu) for line in operator.records())


def test_sinks_of_the_node_on_top_and_none_means_none(
    cluster: LocalCluster, operator: Operator
) -> None:
    gpu = serials(cluster.smi_file(EAST).read_text())[0]
    before = arrivals(operator, gpu)
    assert sinks_of(cluster, EAST) == ["stdout"]
    put_policy(cluster, "fleet", sinks=sinks("one", "two"))
    for node in NODES:
        eventually(partial(has_sinks, cluster, node, "one", "two"))
    mine = [{"name": "two", "records": "sightings", "stdout": {}}, *sinks("three")]
    spec(cluster, EAST, sinks=mine)
    eventually(lambda: has_sinks(cluster, EAST, "one", "two", "three"))
    has_sinks(cluster, WEST, "one", "two")
    # A new sink gets what the history holds: each GPU that is there.
    assert arrivals(operator, gpu) == before + 3
    put_policy(cluster, "fleet", sinks=[])
    eventually(lambda: has_sinks(cluster, EAST, "two", "three"))
    eventually(lambda: has_sinks(cluster, WEST))
    assert condition(cluster, WEST, "Delivered") == ("True", "NoSinks")
    spec(cluster, EAST, sinks=[])
    eventually(lambda: has_sinks(cluster, EAST))
    put_policy(cluster, "fleet")
    eventually(lambda: has_sinks(cluster, WEST, "stdout"))


def test_node_labels_come_and_go(cluster: LocalCluster) -> None:
    foreign = {"metadata": {"labels": {"example.com/mine": "kept"}}}
    path = f"/api/v1/nodes/{EAST}"
    cluster.client.send(Request("PATCH", path, foreign, content_type=MERGE))
    eventually(lambda: labelled(cluster, EAST, True))
    put_policy(cluster, "fleet", nodeLabels=False, nodeSelector=pool("east"))
    eventually(lambda: labelled(cluster, EAST, False))
    labelled(cluster, WEST, True)
    assert cluster.client.get(path)["metadata"]["labels"]["example.com/mine"] == "kept"
    put_policy(cluster, "fleet", nodeLabels=True, nodeSelector=pool("east"))
    eventually(lambda: labelled(cluster, EAST, True))


def labelled(cluster: LocalCluster, node: str, on: bool) -> None:
    assert node_labels(cluster, node).keys() == ({"gpu-0", "gpu-1"} if on else set())


def test_intervals_are_in_force_at_once(cluster: LocalCluster) -> None:
    runs = len(cluster.exec_log(EAST))
    before = sighted(cluster, EAST)
    put_policy(cluster, "fast", nodeSelector=pool("east"), readInterval="1s", sightingInterval="1s")

    def more() -> None:
        assert len(cluster.exec_log(EAST)) >= runs + 3
        assert sighted(cluster, EAST) > before

    eventually(more)
    others = len(cluster.exec_log(LONE))
    put_policy(cluster, "other", nodeSelector=pool("west"), readInterval="1s")
    put_policy(cluster, "fast", nodeSelector=pool("east"), readInterval="0s")
    eventually(lambda: rests(cluster, EAST))
    assert len(cluster.exec_log(LONE)) == others


def sighted(cluster: LocalCluster, node: str) -> int:
    entries = status(cluster, node)["history"]
    return max(int(entry["sequence"]) for entry in entries if entry["type"] == "Sighted")


def rests(cluster: LocalCluster, node: str) -> None:
    """WEST is read three times, each second, and the node not once."""
    runs, ticks = len(cluster.exec_log(node)), len(cluster.exec_log(WEST))
    eventually(lambda: reads_more(cluster, WEST, ticks + 2))
    assert len(cluster.exec_log(node)) == runs


def test_suspension_by_policy_and_by_node(cluster: LocalCluster) -> None:
    spec(cluster, LONE, suspend=True)
    put_policy(cluster, "fleet", nodeSelector=pool("east"), suspend=True, nodeLabels=False)

    def suspended() -> None:
        for node in (EAST, LONE):
            assert condition(cluster, node) == ("True", "Suspended")
        read(cluster, WEST)

    eventually(suspended)
    runs = {node: len(cluster.exec_log(node)) for node in NODES}
    for node in NODES:
        cluster.restart_plugin(node)
    eventually(lambda: reads_more(cluster, WEST, runs[WEST]))
    assert {node: len(cluster.exec_log(node)) for node in (EAST, LONE)} == {
        node: runs[node] for node in (EAST, LONE)
    }
    # Label writes are suspended, too.
    labelled(cluster, EAST, True)
    put_policy(cluster, "fleet", nodeSelector=pool("east"), suspend=False)
    spec(cluster, LONE, suspend=None)
    for node in (EAST, LONE):
        eventually(partial(reads_more, cluster, node, runs[node]))
        eventually(partial(read, cluster, node))


def reads_more(cluster: LocalCluster, node: str, than: int) -> None:
    assert len(cluster.exec_log(node)) > than


def test_a_policy_comes_and_goes_without_a_restart_and_with_one(
    cluster: LocalCluster, operator: Operator
) -> None:
    pid = operator.process.pid
    put_policy(cluster, "fleet", sinks=sinks("one"))
    for node in NODES:
        eventually(partial(has_sinks, cluster, node, "one"), within=60)
    assert operator.process.pid == pid
    assert operator.terminate() == 0
    cluster.kubectl("delete", "gpupol", "fleet")
    put_policy(cluster, "other", sinks=sinks("two"))
    before = [inventory(cluster, node)["status"]["sequence"] for node in NODES]
    operator.restart()
    for node in NODES:
        eventually(partial(ruled, cluster, node, "other"))
        eventually(partial(has_sinks, cluster, node, "two"))
    assert [inventory(cluster, node)["status"]["sequence"] for node in NODES] == before


def test_a_policy_s_status_is_written_when_something_changes_and_not_otherwise(
    cluster: LocalCluster,
) -> None:
    put_policy(cluster, "fleet")
    eventually(lambda: counted(cluster, "fleet", 3))
    version = cluster.client.get(f"{POLICIES}/fleet")["metadata"]["resourceVersion"]
    put_policy(cluster, "other", priority=-1)
    eventually(lambda: counted(cluster, "other", 0))
    body = cluster.client.get(f"{POLICIES}/fleet")
    assert body["metadata"]["resourceVersion"] == version
    assert json.dumps(body["spec"]) == "{}"
