"""When and where a check runs."""

from __future__ import annotations

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from gpuid_operator.localcluster.nodes import node as node_object
from tests.cluster.policy_checks.nodes import (
    NODES,
    SECONDLY,
    becomes,
    more_runs,
)
from tests.support.check_scripts import (
    Probe,
    policy_condition,
    put_policy,
)
from tests.support.operators import (
    INVENTORIES,
    Operator,
    condition,
    eventually,
    status,
)
from tests.support.smi_fixtures import machine


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
    pod = cluster.wait_plugin(node)["metadata"]
    eventually(lambda: more_runs(probe, node, 3))

    def is_read_and_checked() -> None:
        # The read of a new pod is an entry of its own, and comes before or after the check.
        assert status(cluster, node)["source"]["uid"] == pod["uid"]
        assert probe.status(node)["pod"] == f"gpu-operator/{pod['name']}"

    eventually(is_read_and_checked)
    assert operator.terminate() == 0
    before = [status(cluster, name) for name in NODES]
    operator.restart()
    changed = probe.check(interval="24h") | {"command": probe.command + "; echo more"}
    put_policy(cluster, "fleet", checks=[changed])
    becomes(probe, other, True, 0, "fine\nmore")
    becomes(probe, node, True, 0, "restarted\nmore")
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


def test_hung_commands_are_not_stacked(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    """A run that hangs makes the pause before the next one longer than the interval."""
    node, other = NODES
    probe.answer(node, "sleep 60")
    put_policy(cluster, "fleet", checks=[probe.check(interval=SECONDLY, timeout="1s")])
    # The pauses add up to 15 s at least, in which the healthy node has 15 runs.
    eventually(lambda: more_runs(probe, node, 6), within=120)
    assert probe.runs(other) >= probe.runs(node) + 2
    # Another container has no hung command: it is asked at once.
    probe.answer(node, "echo fine")
    cluster.restart_plugin(node)
    becomes(probe, node, True, 0, "fine")


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
