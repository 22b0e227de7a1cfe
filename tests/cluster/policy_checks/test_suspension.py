"""Suspended nodes, suspended operators and disabled checks run nothing."""

from __future__ import annotations

from functools import partial

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from tests.cluster.policy_checks.nodes import (
    NODES,
    SECONDLY,
    becomes,
    hosts,
    more_runs,
    ready,
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
from tests.support.resyncs import PERIODS, wait_for_resyncs
from tests.support.smi_fixtures import machine


def test_off_until_it_is_allowed(cluster: LocalCluster, operator: Operator, probe: Probe) -> None:
    operator.terminate()
    put_policy(cluster, "fleet", checks=[probe.check(interval=SECONDLY)])

    def disabled() -> None:
        state, reason, message = policy_condition(cluster, "fleet", "Ready")
        assert (state, reason) == ("True", "ChecksDisabled")
        assert "POLICY_CHECKS=true" in message

    def ruled(node: str) -> None:
        ready(cluster, node)
        found = status(cluster, node)
        assert found["policy"] == "fleet"
        assert "checks" not in found

    with Operator(cluster):
        eventually(disabled)
        for node in NODES:
            eventually(partial(ruled, node))
    assert [probe.runs(node) for node in NODES] == [0, 0]
    operator.restart()


def test_suspension_ends_a_run_and_its_end_starts_another(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    node, other = NODES
    awake = "gpu-awake"
    cluster.add_node(awake, xml=machine(awake))
    probe.answer(awake, "echo fine")
    probe.answer(node, "sleep 600")
    check = probe.check(interval=SECONDLY, timeout="1h")
    put_policy(cluster, "fleet", checks=[check])
    eventually(lambda: more_runs(probe, node, 1))
    eventually(lambda: more_runs(probe, other, 2))
    put_policy(cluster, "awake", priority=1, nodeSelector=hosts(awake), checks=[check])
    put_policy(cluster, "fleet", checks=[check], suspend=True)

    def suspended() -> None:
        for name in NODES:
            assert condition(cluster, name) == ("True", "Suspended")

    eventually(suspended)
    runs = [probe.runs(name) for name in NODES]
    probe.answer(node, "echo awake")
    # A node that is not suspended shows that three intervals passed.
    passed = probe.runs(awake) + 3
    eventually(lambda: more_runs(probe, awake, passed))
    assert [probe.runs(name) for name in NODES] == runs
    cluster.delete_node(awake)
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

    eventually(one_suspended)
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

    with Operator(cluster, periods=PERIODS, POLICY_CHECKS="true", SUSPEND="true"):
        eventually(suspended)
        cluster.restart_plugin(NODES[0])
        put_policy(cluster, "fleet", checks=[probe.check(interval=SECONDLY)], readInterval="1s")
        wait_for_resyncs(cluster)
    assert [probe.runs(node) for node in NODES] == [0, 0]
    assert [len(cluster.exec_log(node)) for node in NODES] == reads
    operator.restart()
    becomes(probe, NODES[0], True, 0, "fine")
