"""A node whose object is as large as the bounds allow, kept by the operator itself."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from gpuid_operator.api.meta import MAX_CHECKS, MAX_GPUS, MAX_HISTORY, MAX_SINKS
from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from gpuid_operator.localcluster.ports import free_ports
from gpuid_operator.plan.checks import kept_output
from tests.support.operators import (
    INVENTORIES,
    POLICIES,
    Operator,
    condition,
    eventually,
    inventory,
    read_again,
    status,
)
from tests.support.smi_fixtures import facts, machine

NODE = "gpu-limits"
APPLY = "application/apply-patch+yaml"
LONG = ("product_name", "vbios_version", "board_part_number", "gpu_part_number", "driver_version")
UNIQUE = ("uuid", "serial")


def usual(generation: int) -> str:
    """64 GPUs, others in each generation."""
    return machine(f"gpu-limits-{generation}", gpus=MAX_GPUS)


def largest(generation: int) -> str:
    """The same with the longest facts that are kept."""
    xml = usual(generation)
    for tag in LONG:
        xml = re.sub(f"<{tag}>[^<]*", f"<{tag}>{'x' * 200}", xml)
    for tag in UNIQUE:
        xml = re.sub(f"<{tag}>([^<]*)", rf"<{tag}>\g<1>{'x' * 80}", xml)
    return xml


@pytest.fixture(scope="module", autouse=True)
def node(fleet: LocalCluster) -> None:
    """The node, under a policy with all the sinks that it may have, none of which answers."""
    (port,) = free_ports(1)
    sink = {"http": {"url": f"http://127.0.0.1:{port}/{'p' * 200}", "insecure": True}}
    names = [f"{number:02d}-{'s' * 60}" for number in range(MAX_SINKS)]
    policy = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventoryPolicy",
        "metadata": {"name": "limits"},
        "spec": {"sinks": [sink | {"name": name} for name in names]},
    }
    fleet.client.send(Request("POST", POLICIES, policy))
    fleet.add_node(NODE, xml=usual(0), provider_id=f"aws:///us-east-1a/i-{'x' * 400}")


def shows(fleet: LocalCluster, xml: str) -> None:
    assert status(fleet, NODE).get("gpus") == sorted(
        facts(xml), key=lambda gpu: str(gpu["pciAddress"])
    )
    assert condition(fleet, NODE) == ("True", "ReadOK")


def test_the_largest_object_is_written_and_read_again(fleet: LocalCluster) -> None:
    with Operator(fleet) as operator:
        eventually(lambda: shows(fleet, usual(0)))
        for generation in range(1, 6):
            replace(fleet, usual(generation))
        assert 490 <= len(status(fleet, NODE)["history"]) <= MAX_HISTORY
        for generation in range(6, 10):
            replace(fleet, largest(generation))
        fill_checks(fleet)
        eventually(lambda: all_errors_are_told(fleet))
        assert 'gpuid_records_dropped_total{sink="00-' in operator.get("/metrics")[1]
    before = inventory(fleet, NODE)
    history = before["status"]["history"]
    assert [entry["type"] for entry in history].count("Dropped") == 1
    assert condition(fleet, NODE, "Delivered") == ("False", "Overflow")
    size = len(json.dumps(before, separators=(",", ":")))
    assert 750_000 < size < 1_500_000
    with Operator(fleet):
        read_again(fleet, NODE, "one more")
        again = status(fleet, NODE)
    for key in ("gpus", "history", "sequence", "checks"):
        assert again[key] == before["status"][key]


def replace(fleet: LocalCluster, xml: str) -> None:
    fleet.write_smi(NODE, xml)
    fleet.restart_plugin(NODE)
    eventually(lambda: shows(fleet, xml))


def fill_checks(fleet: LocalCluster) -> None:
    """What a check runner of its own leaves after the noisiest commands, under its own manager."""
    noise = kept_output(b"\x01" * 20_000)
    checks: list[dict[str, Any]] = [
        {
            "name": f"{number:02d}-{'c' * 60}",
            "passed": True,
            "transitions": 0,
            "exitCode": 0,
            "stdout": noise,
            "stderr": noise,
            "pod": f"gpu-operator/{'p' * 200}",
        }
        for number in range(MAX_CHECKS)
    ]
    body = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventory",
        "metadata": {"name": NODE},
        "status": {"checks": checks},
    }
    path = f"{INVENTORIES}/{NODE}/status?fieldManager=runner"
    fleet.client.send(Request("PATCH", path, body, content_type=APPLY))


def all_errors_are_told(fleet: LocalCluster) -> None:
    found = status(fleet, NODE)
    assert len(found["checks"]) == MAX_CHECKS
    assert len(found["sinks"]) == MAX_SINKS
    assert all(sink.get("lastError") for sink in found["sinks"])
