"""Restarts of pods whose check failed, and what keeps them from doing harm."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.support.api_fault_proxy import ApiFaultProxy
from tests.support.check_scripts import Probe, delete_policies, events, put_policy
from tests.support.operators import INVENTORIES, Operator, eventually, status
from tests.support.smi_fixtures import machine

NODES = ("gpu-one", "gpu-two", "gpu-three", "gpu-four")
# Ten minutes and one, where nothing else is said.
PERIODS = {"restart_pause": 3.0, "restart_retry": 0.5}


@pytest.fixture(scope="module")
def nodes(fleet: LocalCluster) -> LocalCluster:
    for name in NODES:
        fleet.add_node(name, xml=machine(name))
    return fleet


@pytest.fixture
def cluster(nodes: LocalCluster) -> Iterator[LocalCluster]:
    """The cluster without policies, inventories and Events."""
    yield nodes
    delete_policies(nodes)
    nodes.client.send(Request("DELETE", INVENTORIES))
    nodes.client.send(Request("DELETE", "/api/v1/namespaces/default/events"))
    for name in NODES:
        nodes.wait_plugin(name)


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def probe(cluster: LocalCluster, numbers: Iterator[int]) -> Probe:
    probe = Probe(cluster, f"probe-{next(numbers)}")
    for node in NODES:
        probe.answer(node, "echo fine")
    return probe


def runner(
    cluster: LocalCluster,
    probe: Probe,
    periods: dict[str, float] | None = None,
    proxy: ApiFaultProxy | None = None,
    **variables: str,
) -> Operator:
    environment: dict[str, Any] = {
        "COMMAND": probe.command,
        "CHECK_NAME": probe.name,
        "FORCE_RESTART": "true",
        "RESYNC": "1s",
        **variables,
    }
    kubeconfig = proxy.kubeconfig if proxy else None
    return Operator(cluster, kubeconfig=kubeconfig, periods=periods, **environment)


def pod(cluster: LocalCluster, node: str) -> str:
    return str(cluster.wait_plugin(node)["metadata"]["uid"])


def told(cluster: LocalCluster, node: str, reason: str, count: int = 1) -> list[str]:
    found = events(cluster, node, reason)
    assert len(found) >= count
    return found


def ran(probe: Probe, node: str, count: int) -> None:
    assert probe.runs(node) >= count


def passes(probe: Probe, node: str) -> None:
    assert probe.outcome(node)[0] is True


def test_a_pod_that_fails_is_restarted_and_passes(cluster: LocalCluster, probe: Probe) -> None:
    """A failure that the restart repairs: the file is the container's own."""
    node, other, *_ = NODES
    before = pod(cluster, node), pod(cluster, other)
    script = f"[ $HOSTNAME != {cluster.wait_plugin(node)['metadata']['name']} ]"
    probe.answer(node, script)
    with runner(cluster, probe) as instance:
        eventually(lambda: told(cluster, node, "PodRestarted"))
        eventually(lambda: passes(probe, node))
        found = probe.status(node)
        assert "restarts" not in found
        assert found["lastRestartTime"] <= found["lastRunTime"]
        (message,) = events(cluster, node, "PodRestarted")
        assert message.startswith(f"check {probe.name} failed; deleted pod nvidia-device-plugin-")
        assert [line["node"] for line in restarts(instance)] == [node]
    assert pod(cluster, node) != before[0]
    assert pod(cluster, other) == before[1]


def restarts(instance: Operator) -> list[dict[str, str]]:
    return [line for line in instance.lines() if line["msg"] == "restarted pod"]


def test_not_twice_within_ten_minutes(cluster: LocalCluster, probe: Probe) -> None:
    node = NODES[0]
    probe.answer(node, "exit 1")
    with runner(cluster, probe) as instance:
        (message,) = eventually(lambda: told(cluster, node, "RestartRefused"))[:1]
        assert "less than 10 minutes ago" in message
        eventually(lambda: ran(probe, node, 5))
        assert len(restarts(instance)) == 1
        assert len(events(cluster, node, "PodRestarted")) == 1
    # Nor by the next process.
    with runner(cluster, probe) as instance:
        runs = probe.runs(node)
        eventually(lambda: ran(probe, node, runs + 2))
        assert restarts(instance) == []
    assert len(events(cluster, node, "PodRestarted")) == 1


def test_three_in_a_row_and_no_more(cluster: LocalCluster, probe: Probe) -> None:
    node = NODES[0]
    probe.answer(node, "exit 1")
    with runner(cluster, probe, PERIODS) as instance:
        messages = eventually(lambda: told(cluster, node, "RestartsExhausted"), within=60)
        assert "3 consecutive restarts did not help" in messages[0]
        runs = probe.runs(node)
        eventually(lambda: ran(probe, node, runs + 4))
        assert len(restarts(instance)) == 3
        assert len(events(cluster, node, "PodRestarted")) == 3
        found = probe.status(node)
        assert (found["passed"], found["restarts"], found["transitions"]) == (False, 3, 1)
        # It passed once: the next failure begins a new count.
        probe.answer(node, "echo fine")
        eventually(lambda: passes(probe, node))
        probe.answer(node, "exit 1")
        eventually(lambda: told(cluster, node, "PodRestarted", 4))


def test_one_at_a_time_and_the_next_one_soon(cluster: LocalCluster, probe: Probe) -> None:
    """Two nodes fail; their interval is long, and yet the second has its turn."""
    for node in NODES[:2]:
        probe.answer(node, "exit 1")
    # The pause is longer than a new pod takes on a busy machine.
    periods = PERIODS | {"restart_pause": 60.0}
    with runner(cluster, probe, periods, RESYNC="24h") as instance:
        for node in NODES[:2]:
            eventually(partial(told, cluster, node, "PodRestarted"))
        lines = instance.lines()
    restarted, failed = "restarted pod", "command failed"
    order = [(line["msg"], line["node"]) for line in lines if line["msg"] in (restarted, failed)]
    first = next(index for index, (what, _) in enumerate(order) if what == restarted)
    node = order[first][1]
    second = order.index((restarted, next(name for name in NODES[:2] if name != node)))
    # What came of the first is known before the second begins.
    assert (failed, node) in order[first:second]


def test_restarts_per_hour(cluster: LocalCluster, probe: Probe) -> None:
    for node in NODES[:2]:
        probe.answer(node, "exit 1")
    with runner(cluster, probe, PERIODS, RESTARTS_PER_HOUR="1") as instance:

        def refused() -> None:
            said = [text for node in NODES[:2] for text in events(cluster, node, "RestartRefused")]
            assert any("RESTARTS_PER_HOUR allows 1" in text for text in said)

        eventually(refused)
        runs = [probe.runs(node) for node in NODES[:2]]
        for node, count in zip(NODES, runs, strict=False):
            eventually(partial(ran, probe, node, count + 4))
        assert len(restarts(instance)) == 1


def test_a_failure_of_all_restarts_next_to_nothing(cluster: LocalCluster, probe: Probe) -> None:
    for node in NODES:
        probe.answer(node, "exit 1")
    with runner(cluster, probe, PERIODS) as instance:
        for node in NODES:
            messages = eventually(partial(told, cluster, node, "RestartsHalted", 3))
            assert "look for a common cause" in messages[0]
        assert len(restarts(instance)) <= 2


def test_a_pod_without_a_controller_is_left_alone(cluster: LocalCluster, probe: Probe) -> None:
    node = NODES[0]
    bare = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bare", "labels": {"app": "bare"}},
        "spec": {
            "nodeName": node,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "a", "image": "a"}],
        },
    }
    path = "/api/v1/namespaces/gpu-operator/pods"
    cluster.client.send(Request("POST", path, bare))
    probe.answer(node, "exit 1")
    with runner(cluster, probe, LABEL_SELECTOR="app=bare"):
        messages = eventually(lambda: told(cluster, node, "RestartRefused", 2))
        assert "has no controller" in messages[0]
    assert "deletionTimestamp" not in cluster.client.get(f"{path}/bare")["metadata"]
    assert "restarts" not in probe.status(node)
    cluster.kubectl("delete", "pod", "-n", "gpu-operator", "bare", "--force", "--grace-period=0")


def test_a_kill_between_note_and_deletion_costs_a_restart_never_one_too_many(
    cluster: LocalCluster, probe: Probe
) -> None:
    node = NODES[0]
    uid = pod(cluster, node)
    probe.answer(node, "exit 1")
    with ApiFaultProxy(cluster) as proxy:
        instance = runner(cluster, probe, proxy=proxy)
        deletion = "DELETE /api/v1/namespaces/gpu-operator/pods"
        proxy.refuses = lambda head: "" if head.startswith(deletion) else None
        with instance:

            def noted() -> None:
                assert proxy.refused > 0
                assert probe.status(node)["restarts"] == 1

            eventually(noted)
            instance.kill()
            proxy.refuses = lambda _: None
            runs = probe.runs(node)
            instance.restart()
            eventually(lambda: ran(probe, node, runs + 3))
            assert probe.status(node)["restarts"] == 1
    assert pod(cluster, node) == uid


def test_a_policy_s_check_restarts_within_the_same_guards(
    cluster: LocalCluster, probe: Probe, numbers: Iterator[int]
) -> None:
    """Two checks of one node share its ten minutes, and another instance's restarts count."""
    node, other, *_ = NODES
    second = Probe(cluster, f"probe-{next(numbers)}")
    for name in NODES:
        second.answer(name, "echo fine")
    probe.answer(node, "exit 1")
    check = probe.check(interval="1s", onFailure="RestartPod")
    later = second.check(interval="1s", onFailure="RestartPod")
    put_policy(cluster, "fleet", checks=[check, later])
    with Operator(cluster, POLICY_CHECKS="true") as keeper:
        eventually(lambda: told(cluster, node, "PodRestarted"))
        second.answer(node, "exit 1")

        def refused() -> None:
            said = events(cluster, node, "RestartRefused")
            assert any(text.startswith(f"check {second.name} failed") for text in said)

        eventually(refused)
        assert len(restarts(keeper)) == 1
        third = Probe(cluster, f"probe-{next(numbers)}")
        for name in NODES:
            third.answer(name, "echo fine")
        third.answer(other, "exit 1")
        with runner(cluster, third, RESTARTS_PER_HOUR="1") as instance:

            def counted() -> None:
                said = events(cluster, other, "RestartRefused")
                assert any("RESTARTS_PER_HOUR" in text for text in said), said

            eventually(counted)
            assert restarts(instance) == []
    assert status(cluster, node)["gpuCount"] == 2
