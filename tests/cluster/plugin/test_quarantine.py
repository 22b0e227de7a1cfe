"""`kubectl gpuid quarantine` condemns a part, and `where` and `list` show it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.cluster.plugin.inventories import HERE, UUID_1, at, gpu, put, ready

QUARANTINES = "/apis/gpuid.github.com/v1alpha1/gpuquarantines"
TICKET = "https://tickets.example.com/48213"


@pytest.fixture(autouse=True)
def no_quarantines(fleet: LocalCluster) -> Iterator[None]:
    yield
    fleet.client.send(Request("DELETE", QUARANTINES))


def written(cluster: LocalCluster) -> dict[str, dict[str, object]]:
    """The spec of each quarantine in the cluster, by name."""
    listed = json.loads(cluster.kubectl("get", "gpuq", "-o", "json").stdout)
    return {item["metadata"]["name"]: item["spec"] for item in listed["items"]}


def test_a_gpu_is_condemned_by_its_uuid(
    moved: None, fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    result = run("quarantine", UUID_1.upper(), "--reason", "Xid 79", "--ticket", TICKET, "--taint")
    name = UUID_1.lower()
    assert (result.exit_code, result.stdout) == (
        0,
        f"gpuquarantines.gpuid.github.com/{name} created\n",
    )
    assert result.stderr == "the part is now on n-b\n"
    assert written(fleet) == {
        name: {
            "parts": [{"uuid": UUID_1}],
            "reason": "Xid 79",
            "ticket": TICKET,
            "action": "Taint",
        }
    }
    again = run("quarantine", UUID_1, "--reason", "again")
    assert again.exit_code == 1
    assert f"kubectl edit gpuq {name}" in again.stderr


def test_a_serial_that_is_nowhere_is_condemned_for_the_day_it_turns_up(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    result = run("quarantine", "1652823054567", "--reason", "RMA", "--name", "rma-48213")
    assert result.exit_code == 0
    assert f"no node of context {HERE} has the part now" in result.stderr
    assert written(fleet) == {
        "rma-48213": {"parts": [{"serial": "1652823054567"}], "reason": "RMA"}
    }


def test_a_chassis_needs_its_option(
    moved: None, fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    refused = run("quarantine", "C1", "--reason", "leak")
    assert refused.exit_code == 1
    assert "C1 is the serial of a chassis; add --chassis" in refused.stderr
    assert written(fleet) == {}
    assert run("quarantine", "C1", "--reason", "leak", "--chassis").exit_code == 0
    assert written(fleet) == {"chassis-c1": {"parts": [{"chassis": "C1"}], "reason": "leak"}}


def test_the_file_for_git_is_what_the_api_server_takes(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    result = run("quarantine", "S/1", "--reason", "Xid 79", "-o", "yaml")
    assert yaml.safe_load(result.stdout)["metadata"] == {"name": "serial-s-1"}
    assert written(fleet) == {}
    fleet.kubectl("apply", "-f", "-", input=result.stdout)
    assert written(fleet) == {"serial-s-1": {"parts": [{"serial": "S/1"}], "reason": "Xid 79"}}


@pytest.mark.parametrize("serial", ["N/A", "na", "0000", " Unknown "])
def test_a_word_for_an_unknown_serial_is_refused(serial: str, run: Callable[..., Result]) -> None:
    result = run("quarantine", serial, "--reason", "Xid 79")
    assert result.exit_code == 2
    assert "stands for an unknown serial; use the UUID" in result.stderr


def test_several_clusters_get_it_and_the_one_that_is_down_is_named(
    contexts: Path, run: Callable[..., Result]
) -> None:
    words = ("quarantine", "S1", "--reason", "x", "--contexts", "a,down")
    result = run(*words, kubeconfig=contexts)
    assert result.exit_code == 1
    assert "serial-s1 created (context a)" in result.stdout
    assert "context down: " in result.stderr


def test_where_and_list_show_it(fleet: LocalCluster, run: Callable[..., Result]) -> None:
    condition = ready("True", "Quarantined") | {"type": "Quarantined"}
    marked = gpu(UUID_1, "S1", quarantines=["rma-1"])
    put(fleet, "n-a", gpus=[marked], conditions=[ready(), condition])
    run("quarantine", "S1", "--reason", "Xid 79", "--ticket", TICKET, "--name", "rma-1")
    run("quarantine", "other", "--reason", "no matter")
    found = run("where", UUID_1)
    assert [line.split() for line in found.stdout.splitlines()] == [
        ["SERIAL", "UUID", "NODE", "MACHINE", "PCI", "FROM", "TO", "STATE", "QUARANTINES"],
        ["S1", UUID_1, "n-a", "i-1", "00000000:01:00.0", "unknown", "now", "OK", "rma-1"],
    ]
    assert found.stderr == f"quarantine rma-1 of context {HERE}: Xid 79 ({TICKET})\n"
    header, row = (line.split() for line in run("list").stdout.splitlines())
    assert row[header.index("QUARANTINED")] == "True"
    (exported,) = json.loads(run("export", "-o", "json").stdout)
    assert exported["quarantines"] == ["rma-1"]
    assert at(30) == exported["lastRead"]


def test_where_shows_a_condemned_part_that_no_node_has(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    run("quarantine", "S7", "--reason", "RMA", "--name", "rma-7")
    result = run("where", "S7")
    assert result.exit_code == 1
    assert f"quarantine rma-7 of context {HERE}: RMA\n" in result.stderr
