"""The check runner: the environment alone, beside an inventory instance, and what jq reads."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import yaml

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from tests.support.check_scripts import Probe, delete_policies, events, managers, put_policy
from tests.support.manifests import DEPLOYMENT
from tests.support.operators import (
    INVENTORIES,
    Operator,
    condition,
    eventually,
    history,
    inventory,
    status,
    types,
)
from tests.support.resyncs import PERIODS, wait_for_resyncs
from tests.support.smi_fixtures import machine, swapped

NODES = ("gpu-one", "gpu-two", "gpu-three")
JQ = r'.[] | select(.stdout != null) | "\(.node) \(.msg) \(.stdout)"'
MONITOR = DEPLOYMENT / "overlays" / "gpu-kernel-param-monitor" / "check.yaml"
RUNNER = "gpuid-operator-check-"


@pytest.fixture(scope="module")
def nodes(fleet: LocalCluster) -> LocalCluster:
    for name in NODES:
        fleet.add_node(name, xml=machine(name))
    return fleet


@pytest.fixture
def cluster(nodes: LocalCluster) -> Iterator[LocalCluster]:
    """The cluster without policies and inventories."""
    yield nodes
    delete_policies(nodes)
    nodes.client.send(Request("DELETE", INVENTORIES))


def probe_of(cluster: LocalCluster, name: str) -> Probe:
    probe = Probe(cluster, name)
    for node in NODES:
        probe.answer(node, "echo fine")
        (cluster.smi_file(node).parent / f"{name}.runs").unlink(missing_ok=True)
    return probe


def runner(
    cluster: LocalCluster,
    probe: Probe,
    *,
    periods: Mapping[str, float] | None = None,
    **variables: str,
) -> Operator:
    environment: dict[str, Any] = {
        "COMMAND": probe.command,
        "CHECK_NAME": probe.name,
        "RESYNC": "1s",
    }
    return Operator(cluster, periods=periods, **environment | variables)


def becomes(probe: Probe, node: str, *outcome: object) -> None:
    def there() -> None:
        assert probe.outcome(node) == outcome

    eventually(there)


def ran(probe: Probe, node: str, count: int) -> None:
    assert probe.runs(node) >= count


def test_the_environment_alone_and_jq_on_the_whole_log(cluster: LocalCluster) -> None:
    """What users of the kernel parameter monitor do today, with the overlay's own command."""
    patch = yaml.safe_load(MONITOR.read_text())
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    command = next(item["value"] for item in container["env"] if item["name"] == "COMMAND")
    # A simulated node has its parameters in its folder.
    command = command.replace("/proc/driver/nvidia/params", "params")
    for node, value in zip(NODES, ("1", "0", "1"), strict=True):
        params = cluster.smi_file(node).parent / "params"
        params.write_text(f"DmabufSupported: 1\nGrdmaPciTopoCheckOverride: {value}\n")
    variables: dict[str, Any] = {
        "NAMESPACE": "gpu-operator",
        "LABEL_SELECTOR": "app=nvidia-device-plugin-daemonset",
        "CONTAINER": "nvidia-device-plugin",
        "FORCE_RESTART": "false",
        "WORKERS": "2",
        "TIMEOUT": "10s",
        "RESYNC": "1h",
        "QPS": "20",
        "BURST": "40",
        "LOG_LEVEL": "info",
    }
    runner = Operator(cluster, COMMAND=command, **variables)
    with runner:
        for node in NODES:
            eventually(partial(ran_once, runner, node))
            eventually(partial(Probe(cluster, "command").status, node))
    log = "\n".join(map(json.dumps, runner.lines()))
    done = subprocess.run(
        ["jq", "-s", "-r", JQ], input=log, capture_output=True, text=True, check=True
    )
    assert sorted(done.stdout.splitlines()) == [
        f"{NODES[0]} command executed successfully GrdmaPciTopoCheckOverride is 1",
        f"{NODES[2]} command executed successfully GrdmaPciTopoCheckOverride is 1",
        f"{NODES[1]} command failed GrdmaPciTopoCheckOverride is 0",
    ]
    failed = next(line for line in runner.lines() if line["msg"] == "command failed")
    assert failed.keys() >= {"worker_id", "pod", "uid", "node", "container", "stdout", "stderr"}
    assert (failed["level"], failed["exit_code"], failed["service"]) == ("ERROR", 1, "gpuid")
    # No inventory was read, and each was made for want of one.
    for node in NODES:
        found = inventory(cluster, node)
        assert found["status"].keys() == {"checks"}
        assert found["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "gpuid-operator"}
        assert found["spec"] == {}
        assert managers(cluster, node).keys() == {f"{RUNNER}command"}
    assert [len(cluster.exec_log(node)) for node in NODES] == [0, 0, 0]


def ran_once(runner: Operator, node: str) -> None:
    assert node in [line["node"] for line in runner.lines() if "stdout" in line]


def test_a_restart_runs_nothing_and_another_command_at_once(cluster: LocalCluster) -> None:
    probe = probe_of(cluster, "again")
    with runner(cluster, probe, RESYNC="24h") as instance:
        for node in NODES:
            becomes(probe, node, True, 0, "fine")
        metric = f'gpuid_check_passed{{check="again",node="{NODES[0]}"}} 1'
        assert metric in instance.get("/metrics")[1]
    versions = [inventory(cluster, node)["metadata"]["resourceVersion"] for node in NODES]
    with runner(cluster, probe, RESYNC="24h") as instance:
        # The container of one node is new; whatever else was due had its turn before it.
        cluster.restart_plugin(NODES[2])
        eventually(lambda: ran(probe, NODES[2], 2))
        assert [probe.runs(node) for node in NODES] == [1, 1, 2]
        assert metric in instance.get("/metrics")[1]
    found = [inventory(cluster, node)["metadata"]["resourceVersion"] for node in NODES]
    assert found[:2] == versions[:2]
    with runner(cluster, probe, COMMAND="echo other", RESYNC="24h"):
        for node in NODES:
            becomes(probe, node, True, 0, "other")


def test_suspended_it_runs_nothing(cluster: LocalCluster) -> None:
    probe = probe_of(cluster, "asleep")
    with runner(cluster, probe, periods=PERIODS, SUSPEND="true") as instance:
        cluster.restart_plugin(NODES[0])
        wait_for_resyncs(cluster)
        assert instance.get("/readyz")[0] == 200
    assert [probe.runs(node) for node in NODES] == [0, 0, 0]
    items = cluster.client.get(INVENTORIES)["items"]
    assert items == []


def hosts(*names: str) -> dict[str, object]:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(names)}
    return {"matchExpressions": [expression]}


def test_what_a_policy_suspends_is_suspended_for_runners_too(cluster: LocalCluster) -> None:
    hung, quiet, other = NODES
    late = "gpu-late"
    probe = probe_of(cluster, "paused")
    probe.answer(hung, "sleep 600")

    def passes(seconds: int) -> None:
        """So many runs on a node that is not suspended, one each second."""
        count = probe.runs(other) + seconds
        eventually(lambda: ran(probe, other, count))

    with runner(cluster, probe, TIMEOUT="1h"):
        eventually(lambda: ran(probe, hung, 1))
        eventually(lambda: ran(probe, quiet, 2))
        put_policy(cluster, "pause", nodeSelector=hosts(hung, quiet), suspend=True)

        def paused() -> list[int]:
            before = [probe.runs(node) for node in (hung, quiet)]
            passes(3)
            assert [probe.runs(node) for node in (hung, quiet)] == before
            return before

        runs = eventually(paused, within=60)
        cluster.restart_plugin(quiet)
        # A node that comes now is none of those.
        cluster.add_node(late, xml=machine(late))
        probe.answer(late, "echo late")
        becomes(probe, late, True, 0, "late")
        passes(3)
        assert [probe.runs(node) for node in (hung, quiet)] == runs
        probe.answer(hung, "echo awake")
        delete_policies(cluster)
        # Had the run that hung not been ended, the node would wait for an hour.
        becomes(probe, hung, True, 0, "awake")
        eventually(lambda: ran(probe, quiet, runs[1] + 1))
    cluster.delete_node(late)


def test_what_was_suspended_before_its_start_is_not_run(cluster: LocalCluster) -> None:
    by_policy, by_inventory, other = NODES
    probe = probe_of(cluster, "before")
    put_policy(cluster, "pause", nodeSelector=hosts(by_policy), suspend=True)
    body = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventory",
        "metadata": {"name": by_inventory},
        "spec": {"suspend": True},
    }
    cluster.client.send(Request("POST", INVENTORIES, body))
    with runner(cluster, probe, periods={"resync": 2.0}):
        eventually(lambda: ran(probe, other, 3))
        assert [probe.runs(node) for node in (by_policy, by_inventory)] == [0, 0]
        path = f"{INVENTORIES}/{by_inventory}"
        nothing = {"spec": {"suspend": None}}
        cluster.client.send(Request("PATCH", path, nothing, content_type=MERGE))
        becomes(probe, by_inventory, True, 0, "fine")
        assert probe.runs(by_policy) == 0


def test_two_instances_on_the_same_objects(cluster: LocalCluster) -> None:
    """Neither undoes the other's fields; the inventory instance makes history of the results."""
    node, other, _ = NODES
    probe, own = probe_of(cluster, "runner"), probe_of(cluster, "own")
    sinks = [{"name": "log", "stdout": {}}]
    put_policy(cluster, "fleet", checks=[own.check(interval="1s")], sinks=sinks)
    with Operator(cluster, POLICY_CHECKS="true") as keeper, runner(cluster, probe):
        for name in NODES:
            becomes(probe, name, True, 0, "fine")
            becomes(own, name, True, 0, "fine")
            eventually(partial(both_pass, cluster, name))
        before = status(cluster, node)["sequence"]
        probe.answer(node, "echo bad; exit 9")
        becomes(probe, node, False, 9, "bad")

        def noted() -> None:
            found = probe.status(node)
            assert (found["transitions"], found.get("recorded")) == (1, 1)
            assert condition(cluster, node, "ChecksPassed") == ("False", "ChecksFailed")
            new = [entry for entry in history(cluster, node) if entry["sequence"] > before]
            assert [(entry["type"], entry["to"]) for entry in new] == [
                ("CheckFailed", "runner=failed")
            ]
            assert events(cluster, node, "CheckFailed") != []
            records = [one for one in keeper.records() if one["event"] == "CheckFailed"]
            assert [(one["node"], one["to"]) for one in records] == [(node, "runner=failed")]

        eventually(noted)
        # Another exit code is no change, but the condition has it.
        probe.answer(node, "echo bad; exit 8")

        def said() -> None:
            found = status(cluster, node)["conditions"]
            messages = {one["type"]: one.get("message") for one in found}
            assert messages["ChecksPassed"] == "runner: exit code 8"

        eventually(said)
        owned = managers(cluster, node)
        assert owned[f"{RUNNER}runner"] >= {"runner.passed", "runner.stdout", "runner.transitions"}
        assert not any(field.startswith("own.") for field in owned[f"{RUNNER}runner"])
        assert {f for f in owned["gpuid-operator"] if f.startswith("runner.")} <= {
            "runner.name",
            "runner.recorded",
        }
        # Each goes on writing: facts and own checks here, results there.
        xml = swapped(cluster.smi_file(node).read_text(), 0, "gpu-spare")
        cluster.write_smi(node, xml)
        cluster.restart_plugin(node)
        own.answer(node, "echo changed; exit 2")

        def all_there() -> None:
            assert types(history(cluster, node))[-3:].count("GPUAdded") >= 1
            assert own.outcome(node) == (False, 2, "changed")
            assert probe.outcome(node) == (False, 8, "bad")
            assert probe.status(node)["transitions"] == 1

        eventually(all_there)
        probe.answer(node, "echo fine")
        becomes(probe, node, True, 0, "fine")
        turns = ["CheckFailed", "CheckPassed"]

        def recorded() -> None:
            entries = [one for one in history(cluster, node) if one.get("to", "").startswith("ru")]
            assert types(entries) == turns

        eventually(recorded)
    assert status(cluster, other)["gpuCount"] == 2


def both_pass(cluster: LocalCluster, node: str) -> None:
    assert condition(cluster, node, "ChecksPassed") == ("True", "ChecksPassed")
    assert condition(cluster, node) == ("True", "ReadOK")
    assert [check["name"] for check in status(cluster, node)["checks"]] == ["own", "runner"]


def test_an_inventory_instance_that_comes_later_finds_the_results(cluster: LocalCluster) -> None:
    node = NODES[0]
    probe = probe_of(cluster, "early")
    probe.answer(node, "exit 5")
    with runner(cluster, probe):
        becomes(probe, node, False, 5, "")
    uid = inventory(cluster, node)["metadata"]["uid"]

    def taken_over() -> None:
        assert condition(cluster, node) == ("True", "ReadOK")
        assert condition(cluster, node, "ChecksPassed") == ("False", "ChecksFailed")
        assert probe.status(node)["recorded"] == 1
        assert "CheckFailed" in types(history(cluster, node))

    with Operator(cluster):
        eventually(taken_over)
        assert inventory(cluster, node)["metadata"]["uid"] == uid
    with runner(cluster, probe):
        probe.answer(node, "echo fine")
        becomes(probe, node, True, 0, "fine")
        assert probe.status(node)["recorded"] == 1
        assert status(cluster, node)["gpuCount"] == 2


def test_one_name_is_one_instance_s(cluster: LocalCluster) -> None:
    """The first keeps it, the other says so, and neither runs in circles."""
    node = NODES[0]
    probe = probe_of(cluster, "same")
    put_policy(cluster, "fleet", checks=[probe.check(interval="1s")])
    other: dict[str, Any] = {
        "COMMAND": "echo run >> other.runs; echo other",
        "CHECK_NAME": "same",
        "RESYNC": "1s",
    }
    with Operator(cluster, POLICY_CHECKS="true") as keeper:
        becomes(probe, node, True, 0, "fine")
        with Operator(cluster, **other) as second:

            def says() -> None:
                errors = [line.get("error", "") for line in second.lines()]
                assert any("CHECK_NAME" in error for error in errors)

            eventually(says)
            runs = probe.runs(node)
            eventually(lambda: ran(probe, node, runs + 3))
            assert probe.outcome(node) == (True, 0, "fine")
            tries = (cluster.smi_file(node).parent / "other.runs").read_text().splitlines()
            assert len(tries) < 6
        keeper.terminate()
        cluster.client.send(Request("DELETE", INVENTORIES))
        with Operator(cluster, **other):
            becomes(probe, node, True, 0, "other")
            runs = probe.runs(node)
            keeper.restart()

            def left_out() -> None:
                words = "another instance runs a check of this name"
                assert any(words in line["msg"] for line in keeper.lines())
                assert condition(cluster, node) == ("True", "ReadOK")

            eventually(left_out)
            assert probe.runs(node) == runs
            assert probe.outcome(node) == (True, 0, "other")
