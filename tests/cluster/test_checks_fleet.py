"""A check on 500 nodes: the time that it takes, some nodes that misbehave, one that fails all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from tests.support.check_scripts import Probe
from tests.support.operators import INVENTORIES, Operator, eventually

NODES = 500


@pytest.fixture(scope="module")
def fleet(local_cluster: Callable[..., LocalCluster]) -> Iterator[LocalCluster]:
    cluster = local_cluster(nodes=NODES)
    yield cluster
    cluster.down()


def results(cluster: LocalCluster, runner: Operator, name: str) -> list[dict[str, Any]]:
    """The results of all nodes, once they are there; until then only the runner is asked."""

    def counted() -> None:
        series = runner.get("/metrics")[1].count(f'gpuid_check_passed{{check="{name}"')
        assert series == NODES

    eventually(counted, within=120)
    items = cluster.client.get(INVENTORIES)["items"]
    checks = [check for item in items for check in item["status"]["checks"]]
    return [check for check in checks if check["name"] == name]


def test_500_nodes_of_which_some_misbehave(fleet: LocalCluster) -> None:
    probe = Probe(fleet, "params")
    scripts = ["echo fine", "exit 3", "sleep 60", "yes", "absent"]
    for number, node in enumerate(fleet.node_names):
        probe.answer(node, scripts[number % 100] if number % 100 < len(scripts) else scripts[0])
    environment: dict[str, Any] = {
        "COMMAND": probe.command,
        "CHECK_NAME": "params",
        "TIMEOUT": "10s",
    }
    with Operator(fleet, **environment, WORKERS="16", RESYNC="1h") as runner:
        found = results(fleet, runner, "params")
        assert Counter(check.get("exitCode", "none") for check in found) == {
            0: NODES - 20,
            3: 5,
            127: 5,
            "none": 10,
        }
        said = Counter(line["msg"] for line in runner.lines())
        assert said["command executed successfully"] == NODES - 20
        assert said["command failed"] == 20
    assert {probe.runs(node) for node in fleet.node_names} == {1}


def test_a_check_that_fails_on_all_restarts_next_to_nothing(fleet: LocalCluster) -> None:
    before = pods(fleet)
    environment: dict[str, Any] = {
        "COMMAND": "exit 1",
        "CHECK_NAME": "bad",
        "FORCE_RESTART": "true",
    }
    with Operator(fleet, **environment, WORKERS="64", RESYNC="1h") as runner:
        assert len(results(fleet, runner, "bad")) == NODES

        def halted() -> None:
            lines = [line for line in runner.lines() if line["msg"] == "refused to restart pod"]
            assert len({line["node"] for line in lines}) >= NODES - 2
            reasons = Counter(line["reason"] for line in lines)
            assert reasons["RestartsHalted"] >= NODES - 2

        eventually(halted, within=60)
        restarts = [line for line in runner.lines() if line["msg"] == "restarted pod"]
        assert len(restarts) <= 2
    assert len(before - pods(fleet)) <= 2


def pods(cluster: LocalCluster) -> set[str]:
    items = cluster.client.get("/api/v1/namespaces/gpu-operator/pods")["items"]
    return {item["metadata"]["uid"] for item in items}
