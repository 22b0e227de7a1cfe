"""From nvidia-smi on each node to the table, and what is said where that does not work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from gpuid_operator.localcluster.nodes import node as node_object
from gpuid_operator.plan.failure import ReadError
from tests.support.operators import (
    Operator,
    condition,
    eventually,
    history,
    inventory,
    is_not_ready,
    read_again,
    read_well,
    request_read,
    status,
    types,
)
from tests.support.smi_fixtures import facts, machine, swapped, uuids, with_bodies

REAL = Path(__file__).parents[3] / "shared" / "data" / "smi"
MODELS = ("h100", "gb200", "t4", "b200")
WITHOUT_POD = "gpu-without-pod"


@pytest.fixture(scope="module")
def operator(fleet: LocalCluster) -> Iterator[Operator]:
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
    with Operator(fleet, TIMEOUT="1s") as operator:
        yield operator


def outputs() -> list[tuple[str, bytes]]:
    """A generated output of each model, and the real ones where they are at hand."""
    generated = [(model, machine(f"gpu-of-{model}", model=model).encode()) for model in MODELS]
    real = sorted(REAL.glob("*.xml"))
    return generated + [(path.stem.lower(), path.read_bytes()) for path in real]


@pytest.mark.parametrize(("name", "xml"), outputs(), ids=[name for name, _ in outputs()])
def test_an_inventory_is_what_nvidia_smi_says(
    fleet: LocalCluster, operator: Operator, name: str, xml: bytes
) -> None:
    node = f"gpu-real-{name}".replace("_", "-").replace(".", "-")
    fleet.add_node(node, xml=xml)
    try:
        expected = facts(xml.decode(errors="surrogateescape"))
    except ReadError as error:
        reason = error.reason.value
        eventually(lambda: is_not_ready(fleet, node, reason))
        assert "gpus" not in status(fleet, node)
        return
    eventually(lambda: read_well(fleet, node))
    found = status(fleet, node)
    assert found["gpus"] == expected
    assert found["gpuCount"] == len(expected)
    assert found.get("serials", []) == sorted(
        {gpu["serial"] for gpu in expected if "serial" in gpu}
    )
    pod = fleet.wait_plugin(node)
    container = pod["status"]["containerStatuses"][0]
    assert found["source"] == {
        "namespace": "gpu-operator",
        "pod": pod["metadata"]["name"],
        "uid": pod["metadata"]["uid"],
        "container": "nvidia-device-plugin",
        "containerID": container["containerID"],
    }
    real = fleet.client.get(f"/api/v1/nodes/{node}")
    assert found["node"] == {
        "name": node,
        "uid": real["metadata"]["uid"],
        "providerID": real["spec"]["providerID"],
        "machine": real["spec"]["providerID"].rpartition("/")[2],
        "bootID": real["status"]["nodeInfo"]["bootID"],
    }
    assert inventory(fleet, node)["spec"] == {}


def test_an_edit_is_in_the_table_after_the_restart_of_the_plugin(
    fleet: LocalCluster, node: str
) -> None:
    edited = swapped(fleet.smi_file(node).read_text(), 1, "gpu-edited")
    fleet.write_smi(node, edited)
    container = fleet.restart_plugin(node)

    def read() -> None:
        assert status(fleet, node)["source"]["containerID"] == container

    eventually(read)
    assert status(fleet, node)["gpus"] == facts(edited)
    shown = fleet.kubectl("get", "gpuinventory", node, "-o", "wide").stdout
    assert all(gpu["serial"] in shown for gpu in facts(edited))


FAILURES: list[tuple[str, dict[str, Any], str]] = [
    ("hang", {"hang": True}, "TimedOut"),
    ("missing", {"missing": True}, "NvidiaSmiNotFound"),
    ("silent", {"stdout": "", "exit": 1}, "ExecFailed"),
    (
        "driver",
        {
            "stdout": "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA"
            " driver. Make sure that the latest NVIDIA driver is installed and running.\n",
            "exit": 9,
        },
        "DriverNotLoaded",
    ),
    (
        "mismatch",
        {"stdout": "Failed to initialize NVML: Driver/library version mismatch\n", "exit": 18},
        "DriverNotLoaded",
    ),
    ("cut", {"stdout": machine("gpu-cut")[:9000]}, "Incomplete"),
    (
        "fewer",
        {
            "stdout": machine("gpu-fewer").replace(
                "<attached_gpus>2</attached_gpus>", "<attached_gpus>3</attached_gpus>"
            )
        },
        "Incomplete",
    ),
    ("broken", {"stdout": machine("gpu-broken").replace("</uuid>", "</uid>", 1)}, "Unparsable"),
]


@pytest.mark.parametrize(
    ("behaviour", "reason"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES]
)
def test_a_failure_has_its_reason_keeps_the_facts_and_heals(
    fleet: LocalCluster, node: str, behaviour: dict[str, Any], reason: str
) -> None:
    before = status(fleet, node)
    fleet.set_behaviour(node, **behaviour)
    fleet.restart_plugin(node)
    eventually(lambda: is_not_ready(fleet, node, reason))
    during = status(fleet, node)
    kept = ("gpus", "gpuCount", "serials", "driverVersion", "source", "lastReadTime", "history")
    assert {key: during[key] for key in kept} == {key: before[key] for key in kept}
    (message,) = [one["message"] for one in during["conditions"] if one["type"] == "Ready"]
    assert len(message) > 40
    fleet.clear_behaviour(node)
    eventually(lambda: read_well(fleet, node))
    assert status(fleet, node)["gpus"] == before["gpus"]
    assert types(history(fleet, node)) == ["GPUAdded", "GPUAdded"]


def test_the_exit_code_alone_says_nothing(fleet: LocalCluster, node: str) -> None:
    fleet.set_behaviour(node, exit=14, stderr="WARNING: infoROM is corrupted at gpu 0000:53:00.0")
    container = fleet.restart_plugin(node)

    def read() -> None:
        assert status(fleet, node)["source"]["containerID"] == container

    eventually(read)
    eventually(lambda: read_well(fleet, node))


def test_a_hung_command_is_never_joined_by_a_second_one(fleet: LocalCluster, node: str) -> None:
    before = len(fleet.exec_log(node))
    fleet.set_behaviour(node, hang=True)
    fleet.restart_plugin(node)
    eventually(lambda: is_not_ready(fleet, node, "TimedOut"))
    # Asking does not help against a command that may still be running.
    request_read(fleet, node, "while it hangs")

    def three_runs() -> list[float]:
        runs = fleet.exec_log(node)[before:]
        assert len(runs) >= 3
        return runs

    first, second, third = eventually(three_runs)[:3]
    # Each lasts a second from its connection on, which is before its start here; the back-off is at
    # least half a second, then a whole one.
    assert second - first >= 1.1
    assert third - second >= 1.6

    def echoed() -> None:
        assert status(fleet, node)["lastHandledRequest"] == "while it hangs"

    eventually(echoed)
    fleet.clear_behaviour(node)
    eventually(lambda: read_well(fleet, node))


def test_no_gpus_is_believed_of_a_good_read_only(fleet: LocalCluster, node: str) -> None:
    fleet.set_behaviour(node, stdout="No devices were found\n", exit=6)
    read_again(fleet, node, "found none")
    assert condition(fleet, node)[0] == "False"
    assert status(fleet, node)["gpuCount"] == 2
    name = f"{node}-none"
    fleet.add_node(name, xml=with_bodies(machine(name), []))
    eventually(lambda: read_well(fleet, name))
    assert status(fleet, name)["gpuCount"] == 0
    assert history(fleet, name) == []


def test_a_gpu_node_without_a_target_pod_says_so(fleet: LocalCluster, operator: Operator) -> None:
    eventually(lambda: is_not_ready(fleet, WITHOUT_POD, "NoTargetPod"))
    found = status(fleet, WITHOUT_POD)
    assert "gpus" not in found
    (message,) = [one["message"] for one in found["conditions"] if one["type"] == "Ready"]
    assert "app=nvidia-device-plugin-daemonset" in message


def test_a_request_is_read_for_once_and_echoed(fleet: LocalCluster, node: str) -> None:
    before = len(fleet.exec_log(node))
    read_again(fleet, node, "one")
    assert len(fleet.exec_log(node)) == before + 1
    fleet.set_behaviour(node, stdout="", exit=1)
    read_again(fleet, node, "two")
    eventually(lambda: is_not_ready(fleet, node, "ExecFailed"))
    fleet.clear_behaviour(node)
    read_again(fleet, node, "three")
    eventually(lambda: read_well(fleet, node))


def test_the_table_and_its_explanation(fleet: LocalCluster, node: str) -> None:
    def table(*options: str) -> list[list[str]]:
        shown = fleet.kubectl("get", "gpuinventory", node, *options).stdout.splitlines()
        return [line.split("   ") for line in shown]

    assert fleet.kubectl("get", "gpuinv", node, "-o", "wide").stdout.split("\n")[0].split() == [
        *["NAME", "GPUS", "PRODUCT", "DRIVER", "STATE", "READY", "REASON", "HEALTHY"],
        "DELIVERED",
        *["LAST", "READ", "AGE", "MACHINE", "CHASSIS", "SERIALS", "POLICY"],
        "QUARANTINED",
    ]
    row = " ".join(table()[1]).split()
    assert row[:2] == [node, "2"]
    assert row[-7:-3] == ["Present", "True", "ReadOK", "True"]
    explained = fleet.kubectl("explain", "gpuinventory.status.gpus").stdout
    for field in json.loads(json.dumps(status(fleet, node)["gpus"][0])):
        assert f"  {field}\t" in explained
    assert "nvidia-smi: " in explained


def test_metrics_join_each_gpu_to_its_node(
    fleet: LocalCluster, operator: Operator, node: str
) -> None:
    code, text = operator.get("/metrics")
    assert code == 200
    shown = [line for line in text.splitlines() if line.startswith("gpuid_gpu_info{")]
    for uuid in uuids(fleet.smi_file(node).read_text()):
        (line,) = [line for line in shown if uuid in line]
        assert f'node="{node}"' in line and line.endswith(" 1.0")
