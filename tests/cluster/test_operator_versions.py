"""What only a later version of the operator understands, as after a rollback, is left alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from tests.support.check_scripts import events, put_policy
from tests.support.operators import (
    INVENTORIES,
    POLICIES,
    Operator,
    condition,
    eventually,
    inventory,
    status,
)
from tests.support.smi_fixtures import facts, machine, swapped

LATER, NODE = "gpu-later", "gpu-of-today"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
HISTORY_TYPE = ("status", "history", "items", "type")
HTTP_FORMAT = ("spec", "sinks", "items", "http", "format")


@pytest.fixture(scope="module", autouse=True)
def nodes(fleet: LocalCluster) -> None:
    for node in (LATER, NODE):
        fleet.add_node(node, xml=machine(node))


@contextmanager
def later_crd(
    fleet: LocalCluster, plural: str, path: tuple[str, ...], value: str
) -> Iterator[None]:
    """The CRD of a version that knows one more value of a field."""
    name = f"{CRDS}/{plural}.gpuid.github.com"
    original = fleet.client.get(name)["spec"]
    later = copy.deepcopy(original)
    field = later["versions"][0]["schema"]["openAPIV3Schema"]
    for step in path:
        field = field["items"] if step == "items" else field["properties"][step]
    field["enum"].append(value)

    def put(spec: dict[str, Any]) -> None:
        fleet.client.send(Request("PATCH", name, {"spec": spec}, content_type=MERGE))

    put(later)
    try:
        yield
    finally:
        put(original)


def write(fleet: LocalCluster, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Merge something into an object."""

    def written() -> dict[str, Any]:
        # A CRD is in force a moment after it was written.
        request = Request("PATCH", path, body, content_type=MERGE, tolerate=(422,))
        answer = fleet.client.send(request)
        assert answer is not None
        return dict(answer)

    return eventually(written)


def write_history(fleet: LocalCluster, history: list[dict[str, Any]]) -> str:
    """Replace the history of LATER; the resourceVersion that it has then."""
    body = {"status": {"history": history}}
    made = write(fleet, f"{INVENTORIES}/{LATER}/status", body)
    return str(made["metadata"]["resourceVersion"])


def read_well(fleet: LocalCluster, node: str) -> None:
    assert condition(fleet, node) == ("True", "ReadOK")
    assert status(fleet, node)["gpus"] == facts(fleet.smi_file(node).read_text())


def swap(fleet: LocalCluster, node: str, name: str) -> None:
    fleet.write_smi(node, swapped(fleet.smi_file(node).read_text(), 0, name))
    fleet.restart_plugin(node)


def is_told(fleet: LocalCluster, times: int) -> None:
    words = events(fleet, LATER, "NotUnderstood")
    assert len(words) == times
    for message in words:
        assert ".type: Input should be 'GPUAdded', " in message
        assert "later version of the operator" in message


def test_an_inventory_that_a_later_version_wrote(fleet: LocalCluster) -> None:
    with Operator(fleet):
        for node in (LATER, NODE):
            eventually(partial(read_well, fleet, node))
    history = status(fleet, LATER)["history"]
    cleaned = {**history[-1], "sequence": history[-1]["sequence"] + 1, "type": "GPUCleaned"}

    # It is there at the start.
    with later_crd(fleet, "gpuinventories", HISTORY_TYPE, "GPUCleaned"):
        version = write_history(fleet, [*history, cleaned])
    runs = len(fleet.exec_log(LATER))
    with Operator(fleet) as operator:
        eventually(lambda: is_told(fleet, 1))
        (line,) = [line for line in operator.lines() if line["level"] == "ERROR"]
        assert line["node"] == LATER
        assert line["error"].startswith(f"history.{len(history)}.type: Input should be")
        for node in (LATER, NODE):
            swap(fleet, node, "gpu-swapped")
        eventually(lambda: read_well(fleet, NODE))
        assert len(fleet.exec_log(LATER)) == runs
        assert inventory(fleet, LATER)["metadata"]["resourceVersion"] == version
        assert 'gpuid_reads_total{result="NotUnderstood"}' in operator.get("/metrics")[1]
        # Once repaired, it is kept up to date again.
        write_history(fleet, history)
        eventually(lambda: read_well(fleet, LATER))

        # It comes while the operator runs, and the user can do without it.
        with later_crd(fleet, "gpuinventories", HISTORY_TYPE, "GPUCleaned"):
            version = write_history(fleet, [cleaned])
        eventually(lambda: is_told(fleet, 2))
        for node in (LATER, NODE):
            swap(fleet, node, "gpu-swapped-again")
        eventually(lambda: read_well(fleet, NODE))
        assert inventory(fleet, LATER)["metadata"]["resourceVersion"] == version
        fleet.kubectl("delete", "gpuinv", LATER)
        eventually(lambda: read_well(fleet, LATER))


def versions(fleet: LocalCluster) -> list[str]:
    return [inventory(fleet, node)["metadata"]["resourceVersion"] for node in (LATER, NODE)]


def has_labels(fleet: LocalCluster, node: str) -> bool:
    labels = fleet.client.get(f"/api/v1/nodes/{node}")["metadata"]["labels"]
    return any(label.startswith("gpuid.github.com/") for label in labels)


def test_a_policy_that_was_written_for_a_later_version(fleet: LocalCluster) -> None:
    policy = f"{POLICIES}/fleet"
    mine = {"matchLabels": {"kubernetes.io/hostname": LATER}}
    put_policy(fleet, "fleet", nodeSelector=mine, nodeLabels=False, sinks=[])
    avro = {"sinks": [{"name": "x", "http": {"url": "https://x.example", "format": "avro"}}]}

    def is_left_alone(operator: Operator) -> None:
        """The other node goes on."""

        def told() -> None:
            lines = [line for line in operator.lines() if line["level"] == "ERROR"]
            assert lines
            assert {line["policy"] for line in lines} == {"fleet"}
            assert "sinks.0.http.format: Input should be" in lines[0]["error"]

        eventually(told)
        runs, version = len(fleet.exec_log(LATER)), versions(fleet)[0]
        for node in (LATER, NODE):
            fleet.restart_plugin(node)
        eventually(lambda: has_run(fleet, NODE, others))
        eventually(lambda: read_well(fleet, NODE))
        assert (len(fleet.exec_log(LATER)), versions(fleet)[0]) == (runs, version)
        assert not has_labels(fleet, LATER)

    with Operator(fleet) as operator:
        eventually(lambda: is_under(fleet, "fleet"))
        others = len(fleet.exec_log(NODE))
        with later_crd(fleet, "gpuinventorypolicies", HTTP_FORMAT, "avro"):
            write(fleet, policy, {"spec": avro})
        is_left_alone(operator)
    with Operator(fleet) as operator:
        others = len(fleet.exec_log(NODE))
        is_left_alone(operator)
        runs = len(fleet.exec_log(LATER))
        # Once repaired, it is in force again.
        put_policy(fleet, "fleet", nodeSelector=mine, nodeLabels=False, sinks=[])
        eventually(lambda: has_run(fleet, LATER, runs))
        eventually(lambda: is_under(fleet, "fleet"))
        assert not has_labels(fleet, LATER)
        # Without it the environment is the policy.
        fleet.client.send(Request("DELETE", policy))
        eventually(lambda: is_under(fleet, ""))
        eventually(lambda: labelled(fleet, LATER))


def labelled(fleet: LocalCluster, node: str) -> None:
    assert has_labels(fleet, node)


def has_run(fleet: LocalCluster, node: str, before: int) -> None:
    assert len(fleet.exec_log(node)) > before


def is_under(fleet: LocalCluster, policy: str) -> None:
    read_well(fleet, LATER)
    assert status(fleet, LATER).get("policy", "") == policy
