"""An inventory that a later version of the operator wrote, as after a rollback, is left alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from machines import facts, machine, swapped
from operators import INVENTORIES, Operator, condition, eventually, inventory, status
from probes import events

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request

LATER, NODE = "gpu-later", "gpu-of-today"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CRD = f"{CRDS}/gpuinventories.gpuid.github.com"


@pytest.fixture(scope="module", autouse=True)
def nodes(fleet: LocalCluster) -> None:
    for node in (LATER, NODE):
        fleet.add_node(node, xml=machine(node))


@contextmanager
def later_crd(fleet: LocalCluster) -> Iterator[None]:
    """The CRD of a version that knows one more type of entries."""
    original = fleet.client.get(CRD)["spec"]
    later = copy.deepcopy(original)
    schema = later["versions"][0]["schema"]["openAPIV3Schema"]
    entry = schema["properties"]["status"]["properties"]["history"]["items"]
    entry["properties"]["type"]["enum"].append("GPUCleaned")

    def put(spec: dict[str, Any]) -> None:
        fleet.client.send(Request("PATCH", CRD, {"spec": spec}, content_type=MERGE))

    put(later)
    try:
        yield
    finally:
        put(original)


def write_history(fleet: LocalCluster, history: list[dict[str, Any]]) -> dict[str, Any]:
    """Replace the history of LATER."""
    path = f"{INVENTORIES}/{LATER}/status"
    body = {"status": {"history": history}}

    def written() -> dict[str, Any]:
        # A CRD is in force a moment after it was written.
        request = Request("PATCH", path, body, content_type=MERGE, tolerate=(422,))
        answer = fleet.client.send(request)
        assert answer is not None
        return dict(answer)

    return eventually(written)


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


def test_what_a_later_version_wrote_is_left_alone(fleet: LocalCluster) -> None:
    with Operator(fleet):
        for node in (LATER, NODE):
            eventually(lambda node=node: read_well(fleet, node))
    history = status(fleet, LATER)["history"]
    cleaned = {**history[-1], "sequence": history[-1]["sequence"] + 1, "type": "GPUCleaned"}

    # It is there at the start.
    with later_crd(fleet):
        version = write_history(fleet, [*history, cleaned])["metadata"]["resourceVersion"]
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
        # Mended, it is kept again.
        write_history(fleet, history)
        eventually(lambda: read_well(fleet, LATER))

        # It comes while the operator runs, and the user can do without it.
        with later_crd(fleet):
            version = write_history(fleet, [cleaned])["metadata"]["resourceVersion"]
        eventually(lambda: is_told(fleet, 2))
        for node in (LATER, NODE):
            swap(fleet, node, "gpu-swapped-again")
        eventually(lambda: read_well(fleet, NODE))
        assert inventory(fleet, LATER)["metadata"]["resourceVersion"] == version
        fleet.kubectl("delete", "gpuinv", LATER)
        eventually(lambda: read_well(fleet, LATER))
