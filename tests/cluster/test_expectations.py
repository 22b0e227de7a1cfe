"""A policy that says what a node should have, on a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.support.check_scripts import put_policy
from tests.support.operators import (
    POLICIES,
    Operator,
    condition,
    condition_types,
    eventually,
    history,
    read_again,
    status,
    types,
)
from tests.support.smi_fixtures import machine

POLICY = "expecting"


@pytest.fixture
def policy(fleet: LocalCluster) -> Iterator[None]:
    yield
    fleet.client.send(Request("DELETE", f"{POLICIES}/{POLICY}", tolerate=(404,)))


def expect(fleet: LocalCluster, node: str, **expected: Any) -> None:
    """Apply the policy as git would: it selects this node, and delivers changes."""
    spec: dict[str, Any] = {
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": node}},
        "sinks": [{"name": "logs", "records": "changes", "stdout": {}}],
    }
    if expected:
        spec["expect"] = expected
    put_policy(fleet, POLICY, **spec)


def says(fleet: LocalCluster, node: str, status_: str, reason: str) -> None:
    assert condition(fleet, node, "AsExpected") == (status_, reason)


def test_a_policy_is_judged_on_what_is_there(
    fleet: LocalCluster, node: str, operator: Operator, policy: None
) -> None:
    reads = len(fleet.exec_log(node))
    before = status(fleet, node)["sequence"]
    expect(fleet, node, gpus=8)
    eventually(lambda: says(fleet, node, "False", "TooFewGPUs"))
    expect(fleet, node, gpus=2, products=["NVIDIA H100 80GB HBM3"])
    eventually(lambda: says(fleet, node, "True", "AsExpected"))

    def measured() -> None:
        expected = f'gpuid_node_as_expected{{node="{node}"}} 1.0'
        assert operator.get("/metrics")[1].count(expected) == 1

    eventually(measured)
    assert len(fleet.exec_log(node)) == reads
    fleet.write_smi(node, machine(node, driver="1.2.3"))
    read_again(fleet, node, "other driver")
    assert condition(fleet, node, "AsExpected") == ("True", "AsExpected")
    expect(fleet, node, drivers=["570.86.15"])
    eventually(lambda: says(fleet, node, "False", "OtherDriver"))
    expect(fleet, node)

    def withdrawn() -> None:
        assert "AsExpected" not in condition_types(fleet, node)
        assert types(history(fleet, node)[-1:]) == ["ExpectationMet"]

    eventually(withdrawn)
    told = [entry for entry in history(fleet, node) if entry["sequence"] > before]
    assert [(one["type"], one.get("from"), one.get("to")) for one in told] == [
        ("ExpectationFailed", None, "TooFewGPUs"),
        ("ExpectationMet", "TooFewGPUs", "AsExpected"),
        ("DriverChanged", "570.86.15", "1.2.3"),
        ("ExpectationFailed", "AsExpected", "OtherDriver"),
        ("ExpectationMet", "OtherDriver", None),
    ]
    assert told[0]["message"] == "6 of 8 expected GPUs are missing: the node has 2"

    def delivered() -> None:
        found = [one for one in operator.records() if one["node"] == node and one.get("event")]
        assert [one["event"] for one in found if one["event"].startswith("Expectation")] == [
            "ExpectationFailed",
            "ExpectationMet",
            "ExpectationFailed",
            "ExpectationMet",
        ]

    eventually(delivered)

    def warned() -> None:
        described = fleet.kubectl("describe", "gpuinventory", node).stdout.split("Events:")[1]
        assert "ExpectationFailed" in described
        assert "6 of 8 expected GPUs are missing" in described

    eventually(warned)
