"""Checks of policies: their results in status, history, Events, records, metrics and log."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from gpuid_operator.localcluster.nodes import node as node_object
from tests.support.check_scripts import (
    Probe,
    delete_policies,
    events,
    managers,
    policy_condition,
    put_policy,
)
from tests.support.operators import (
    INVENTORIES,
    Operator,
    condition,
    eventually,
    history,
    status,
    types,
)
from tests.support.smi_fixtures import machine

NODES = ("gpu-one", "gpu-two")
SECONDLY = "1s"


@pytest.fixture(scope="module")
def cluster(fleet: LocalCluster) -> LocalCluster:
    for name in NODES:
        fleet.add_node(name, xml=machine(name))
    return fleet


@pytest.fixture(scope="module")
def operator(cluster: LocalCluster) -> Iterator[Operator]:
    with Operator(cluster, POLICY_CHECKS="true", WORKERS="8", TIMEOUT="10s") as operator:
        eventually(lambda: [ready(cluster, node) for node in NODES])
        yield operator


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def probe(cluster: LocalCluster, numbers: Iterator[int]) -> Iterator[Probe]:
    """A check that passes everywhere, in no policy yet."""
    probe = Probe(cluster, f"probe-{next(numbers)}")
    for node in NODES:
        probe.answer(node, "echo fine")
    yield probe
    delete_policies(cluster)


def ready(cluster: LocalCluster, node: str) -> None:
    assert condition(cluster, node) == ("True", "ReadOK")


def in_force(cluster: LocalCluster) -> None:
    assert policy_condition(cluster, "fleet", "Ready")[:2] == ("True", "InForce")


def becomes(probe: Probe, node: str, *outcome: object) -> None:
    def there() -> None:
        assert probe.outcome(node) == outcome

    eventually(there)


def test_off_until_it_is_allowed(cluster: LocalCluster, probe: Probe) -> None:
    put_policy(cluster, "fleet", checks=[probe.check(interval=SECONDLY)])

    def disabled() -> None:
        state, reason, message = policy_condition(cluster, "fleet", "Ready")
        assert (state, reason) == ("True", "ChecksDisabled")
        assert "POLICY_CHECKS=true" in message

    with Operator(cluster):
        eventually(disabled)
        for node in NODES:
            eventually(lambda node=node: ready(cluster, node))
            assert status(cluster, node)["policy"] == "fleet"
    assert [probe.runs(node) for node in NODES] == [0, 0]
    assert ["checks" in status(cluster, node) for node in NODES] == [False, False]


def test_a_pass_is_no_news_a_failure_is_and_so_is_the_next_pass(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    node, other = NODES
    sinks = [{"name": "log", "stdout": {}}]
    put_policy(cluster, "fleet", checks=[probe.check(interval=SECONDLY)], sinks=sinks)
    becomes(probe, node, True, 0, "fine")
    eventually(lambda: in_force(cluster))
    assert condition(cluster, node, "ChecksPassed") == ("True", "ChecksPassed")
    before = status(cluster, node)["sequence"]
    assert "CheckPassed" not in types(history(cluster, node))
    pod = cluster.wait_plugin(node)["metadata"]

    probe.answer(node, "echo said; echo no >&2; exit 7")
    becomes(probe, node, False, 7, "said")
    failed = probe.status(node)
    assert failed["stderr"] == "no"
    assert failed["pod"] == f"gpu-operator/{pod['name']}"
    assert (failed["transitions"], failed["recorded"]) == (1, 1)
    assert condition(cluster, node, "ChecksPassed") == ("False", "ChecksFailed")
    (entry,) = [one for one in history(cluster, node) if one["sequence"] > before]
    assert (entry["type"], entry["to"]) == ("CheckFailed", f"{probe.name}=failed")
    assert entry["message"] == f"check {probe.name} failed with exit code 7: no"

    probe.answer(node, "echo fine")
    becomes(probe, node, True, 0, "fine")
    entry = history(cluster, node)[-1]
    assert (entry["type"], entry["from"]) == ("CheckPassed", f"{probe.name}=failed")
    assert condition(cluster, other, "ChecksPassed") == ("True", "ChecksPassed")
    assert probe.status(other)["transitions"] == 0

    def told() -> None:
        assert events(cluster, node, "CheckFailed")[-1] == (
            f"check {probe.name} failed with exit code 7: no"
        )
        assert len(events(cluster, node, "CheckPassed")) >= 1
        records = [one for one in operator.records() if one["event"].startswith("Check")]
        mine = [one for one in records if f"{probe.name}=" in one["to"]]
        assert [(one["node"], one["event"], one["gpu"]) for one in mine] == [
            (node, "CheckFailed", "na"),
            (node, "CheckPassed", "na"),
        ]

    eventually(told)
    metrics = operator.get("/metrics")[1]
    assert f'gpuid_check_passed{{check="{probe.name}",node="{node}"}} 1' in metrics
    lines = [line for line in operator.lines() if line.get("check") == probe.name]
    lines = [line for line in lines if line["node"] == node and "stdout" in line]
    passed = next(line for line in lines if line["level"] == "INFO")
    assert passed["msg"] == "command executed successfully"
    assert passed["stdout"] == "fine"
    error = next(line for line in lines if line["level"] == "ERROR")
    assert error["msg"] == "command failed"
    expected = {"exit_code": 7, "stdout": "said", "stderr": "no", "pod": pod["name"]}
    expected |= {"uid": pod["uid"], "container": "nvidia-device-plugin", "service": "gpuid"}
    assert expected.items() <= error.items()
    assert error.keys() >= {"time", "source", "worker_id"}


def test_several_checks_have_their_own_pods_containers_and_times(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    """One runs in all plugin pods, another in one pod of its own, the third only once."""
    node, other = NODES
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "driver", "labels": {"app": "driver", "tier": "node"}},
        "spec": {
            "nodeName": node,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "first", "image": "a"}, {"name": "second", "image": "b"}],
        },
    }
    own = {
        "name": "own",
        "podSelector": {
            "matchLabels": {"app": "driver"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["node"]}],
        },
        "container": "second",
        "command": "echo $HOSTNAME; exit 4",
    }
    once = Probe(cluster, f"{probe.name}-once")
    for name in NODES:
        once.answer(name, "echo once")
    checks = [probe.check(interval=SECONDLY), own, once.check(interval="0s")]
    put_policy(cluster, "fleet", checks=checks)
    becomes(probe, node, True, 0, "fine")
    becomes(once, other, True, 0, "once")
    cluster.client.send(Request("POST", "/api/v1/namespaces/gpu-operator/pods", pod))
    becomes(Probe(cluster, "own"), node, False, 4, "driver")
    assert [check["name"] for check in status(cluster, node)["checks"]] == sorted(
        ["own", probe.name, once.name]
    )
    line = next(line for line in operator.lines() if line.get("check") == "own")
    assert line["container"] == "second"
    runs = probe.runs(other)
    eventually(lambda: more_runs(probe, other, runs + 2))
    assert once.runs(other) == 1
    assert "own" not in [check["name"] for check in status(cluster, other)["checks"]]
    # Gone from the policy, gone from the status and the metrics.
    put_policy(cluster, "fleet", checks=[probe.check(interval=SECONDLY)])

    def gone() -> None:
        assert [check["name"] for check in status(cluster, node)["checks"]] == [probe.name]
        assert condition(cluster, node, "ChecksPassed") == ("True", "ChecksPassed")
        assert 'check="own"' not in operator.get("/metrics")[1]

    eventually(gone)
    cluster.kubectl("delete", "pod", "-n", "gpu-operator", "driver", "--force", "--grace-period=0")


def more_runs(probe: Probe, node: str, count: int) -> None:
    assert probe.runs(node) >= count


def test_another_container_or_command_is_asked_at_once_and_nothing_twice(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    node, other = NODES
    put_policy(cluster, "fleet", checks=[probe.check(interval="24h")])
    becomes(probe, node, True, 0, "fine")
    becomes(probe, other, True, 0, "fine")
    probe.answer(node, "echo restarted")
    cluster.restart_plugin(node)
    becomes(probe, node, True, 0, "restarted")
    cluster.delete_pod(node)
    eventually(lambda: more_runs(probe, node, 3))
    assert operator.terminate() == 0
    before = [status(cluster, name) for name in NODES]
    operator.restart()
    changed = probe.check(interval="24h") | {"command": probe.command + "; echo more"}
    put_policy(cluster, "fleet", checks=[changed])
    becomes(probe, other, True, 0, "fine\nmore")
    # The one run is that of the other command: the restart of the operator asked for none.
    assert [probe.runs(name) for name in NODES] == [4, 2]
    after = [status(cluster, name) for name in NODES]
    assert [one["sequence"] for one in before] == [one["sequence"] for one in after]


def test_a_new_node_has_its_checks_at_once(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    put_policy(cluster, "fleet", checks=[probe.check(command="echo new")])
    node = "gpu-new"
    cluster.add_node(node, xml=machine(node))
    becomes(probe, node, True, 0, "new")
    cluster.delete_node(node)

    def departed() -> None:
        assert status(cluster, node)["state"] == "Departed"
        assert f'node="{node}"' not in operator.get("/metrics")[1]

    eventually(departed)
    cluster.client.send(Request("DELETE", f"{INVENTORIES}/{node}"))


def test_commands_that_misbehave_give_a_result_and_hold_up_no_other_node(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    node, other = NODES
    put_policy(cluster, "fleet", checks=[probe.check(interval=SECONDLY, timeout="1s")])
    becomes(probe, node, True, 0, "fine")

    probe.answer(node, "echo begun; sleep 60")
    becomes(probe, node, False, None, "begun")
    assert "did not end within 1 s" in probe.status(node)["stderr"]
    runs = probe.runs(other)
    eventually(lambda: more_runs(probe, other, runs + 2))

    probe.answer(node, "yes flood")

    def flooded() -> None:
        found = probe.status(node)
        assert "printed more than 262144 bytes" in found["stderr"]
        assert found["stdout"].endswith("flood\n… (cut)")
        assert "exitCode" not in found

    eventually(flooded)
    probe.answer(node, "absent-program")

    def absent() -> None:
        found = probe.status(node)
        assert (found["passed"], found.get("exitCode")) == (False, 127)
        assert "absent-program" in found["stderr"]

    eventually(absent)
    probe.answer(node, r"printf 'a\000\377\033[2J'")
    becomes(probe, node, True, 0, "a\ufffd\ufffd\ufffd[2J")


def test_hung_commands_are_not_stacked(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    node, _ = NODES
    probe.answer(node, "sleep 60")
    began = time.monotonic()
    put_policy(cluster, "fleet", checks=[probe.check(interval=SECONDLY, timeout="100ms")])
    eventually(lambda: more_runs(probe, node, 4))
    # Back-offs of at least 0.5, 1 and 2 s, where the interval alone would have been 1 s each.
    assert time.monotonic() - began > 3.5
    # Another container has no hung command: it is asked at once.
    probe.answer(node, "echo fine")
    cluster.restart_plugin(node)
    becomes(probe, node, True, 0, "fine")


def test_suspension_ends_what_runs_and_the_end_of_it_begins_anew(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    node, other = NODES
    probe.answer(node, "sleep 600")
    check = probe.check(interval=SECONDLY, timeout="1h")
    put_policy(cluster, "fleet", checks=[check])
    eventually(lambda: more_runs(probe, node, 1))
    eventually(lambda: more_runs(probe, other, 2))
    put_policy(cluster, "fleet", checks=[check], suspend=True)

    def suspended() -> None:
        for name in NODES:
            assert condition(cluster, name) == ("True", "Suspended")

    eventually(suspended, within=10)
    runs = [probe.runs(name) for name in NODES]
    probe.answer(node, "echo awake")
    # A second look at a quiet node has nothing to wait for but time: two intervals.
    time.sleep(2.5)
    assert [probe.runs(name) for name in NODES] == runs
    put_policy(cluster, "fleet", checks=[check])
    # Had the hung run not been ended, this would have to wait an hour.
    becomes(probe, node, True, 0, "awake")

    probe.answer(other, "sleep 600")
    runs = [probe.runs(name) for name in NODES]
    eventually(lambda: more_runs(probe, other, runs[1] + 1))
    path = f"{INVENTORIES}/{other}"
    cluster.client.send(Request("PATCH", path, {"spec": {"suspend": True}}, content_type=MERGE))

    def one_suspended() -> None:
        assert condition(cluster, other)[1] == "Suspended"

    eventually(one_suspended, within=10)
    runs = [probe.runs(name) for name in NODES]
    eventually(lambda: more_runs(probe, node, runs[0] + 2))
    assert probe.runs(other) == runs[1]
    probe.answer(other, "echo fine")
    cluster.client.send(Request("PATCH", path, {"spec": {"suspend": None}}, content_type=MERGE))
    becomes(probe, other, True, 0, "fine")


def test_an_operator_that_is_suspended_runs_nothing(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    operator.terminate()
    put_policy(cluster, "fleet", checks=[probe.check(interval=SECONDLY)])
    reads = [len(cluster.exec_log(node)) for node in NODES]

    def suspended() -> None:
        for name in NODES:
            assert condition(cluster, name)[1] == "Suspended"

    with Operator(cluster, POLICY_CHECKS="true", SUSPEND="true"):
        eventually(suspended)
        cluster.restart_plugin(NODES[0])
        put_policy(cluster, "fleet", checks=[probe.check(interval=SECONDLY)], readInterval="1s")
        time.sleep(2.5)
    assert [probe.runs(node) for node in NODES] == [0, 0]
    assert [len(cluster.exec_log(node)) for node in NODES] == reads
    operator.restart()
    becomes(probe, NODES[0], True, 0, "fine")


def test_a_wrong_selector_of_one_check_leaves_the_rest_alone(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    """A schema cannot look at the keys of `matchLabels`."""
    wrong = {"name": "wrong", "podSelector": {"matchLabels": {"a b": "c"}}, "command": "true"}
    put_policy(cluster, "fleet", checks=[wrong, probe.check()])

    def said() -> None:
        state, reason, message = policy_condition(cluster, "fleet", "Ready")
        assert (state, reason) == ("False", "InvalidSelector")
        assert "wrong" in message

    eventually(said)
    becomes(probe, NODES[0], True, 0, "fine")
    assert operator.get("/readyz")[0] == 200


def test_pods_of_nodes_without_gpus_make_no_inventories(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    name = "gpu-none"
    body = node_object(
        name,
        gpus=0,
        product="none",
        instance_type="m5.large",
        provider_id=None,
        labels={"nvidia.com/gpu.present": "false"},
        object_bytes=None,
    )
    cluster.client.send(Request("POST", "/api/v1/nodes", body))
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "cpu", "labels": {"app": "everywhere"}},
        "spec": {
            "nodeName": name,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "a", "image": "a"}],
        },
    }
    cluster.client.send(Request("POST", "/api/v1/namespaces/gpu-operator/pods", pod))
    everywhere = {"matchLabels": {"app": "everywhere"}}
    checks = [probe.check(), {"name": "all", "podSelector": everywhere, "command": "echo all"}]
    put_policy(cluster, "fleet", checks=checks)
    becomes(probe, NODES[0], True, 0, "fine")

    def pod_runs() -> None:
        found = cluster.client.get("/api/v1/namespaces/gpu-operator/pods/cpu")
        assert found["status"]["phase"] == "Running"

    eventually(pod_runs)
    other = Probe(cluster, f"{probe.name}-later")
    other.answer(NODES[0], "echo later")
    put_policy(cluster, "fleet", checks=[*checks, other.check()])
    becomes(other, NODES[0], True, 0, "later")
    path = f"{INVENTORIES}/{name}"
    assert cluster.client.send(Request("GET", path, tolerate=(404,))) is None
    cluster.client.send(Request("DELETE", f"/api/v1/nodes/{name}"))


def test_only_one_manager_writes_results_of_policies(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    put_policy(cluster, "fleet", checks=[probe.check()])
    becomes(probe, NODES[0], True, 0, "fine")
    owned = managers(cluster, NODES[0])
    assert owned.keys() == {"gpuid-operator"}
