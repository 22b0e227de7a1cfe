"""Results of checks in status, history, Events, records, metrics and log."""

from __future__ import annotations

from gpuid_operator.localcluster import LocalCluster
from tests.cluster.policy_checks.nodes import (
    NODES,
    SECONDLY,
    becomes,
    more_runs,
    takes_effect,
)
from tests.support.check_scripts import (
    Probe,
    events,
    managers,
    put_policy,
)
from tests.support.operators import (
    Operator,
    condition,
    eventually,
    history,
    status,
    types,
)


def test_a_pass_is_no_news_a_failure_is_and_so_is_the_next_pass(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    node, other = NODES
    sinks = [{"name": "log", "stdout": {}}]
    put_policy(cluster, "fleet", checks=[probe.check(interval=SECONDLY)], sinks=sinks)
    becomes(probe, node, True, 0, "fine")
    becomes(probe, other, True, 0, "fine")
    eventually(lambda: takes_effect(cluster))
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


def test_only_one_manager_writes_results_of_policies(
    cluster: LocalCluster, operator: Operator, probe: Probe
) -> None:
    put_policy(cluster, "fleet", checks=[probe.check()])
    becomes(probe, NODES[0], True, 0, "fine")
    owned = managers(cluster, NODES[0])
    assert owned.keys() == {"gpuid-operator"}
