"""Nodes that are added just before the operator starts are read, however busy the machine is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from click.testing import CliRunner

from gpuid_operator.cli.plugin import PROGRAM, cli
from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.faults.campaign import WHOLE, Figures
from tests.support.operators import INVENTORIES, Operator, eventually, read_well
from tests.support.smi_fixtures import machine, serials

RUNS = 200 if WHOLE else 1
LOOPS = 4
"""Processes that compete with the cluster and the operator for the CPU."""


@contextmanager
def busy_machine() -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(LOOPS)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def test_new_nodes_are_read_on_a_busy_machine(
    local_cluster: Callable[..., LocalCluster], figures: Callable[[str], Figures]
) -> None:
    cluster = local_cluster(nodes=0)
    row = figures("new nodes on a busy machine")
    with busy_machine():
        for run in range(RUNS):
            hardware = {name: machine(name) for name in (f"gpu-a-{run}", f"gpu-b-{run}")}
            row.injected += 1
            _read_new_nodes(cluster, hardware, row)
            row.survived += 1


def _read_new_nodes(cluster: LocalCluster, hardware: dict[str, str], row: Figures) -> None:
    """Add nodes, start the operator, ask for reads, and remove everything."""
    for name, xml in hardware.items():
        cluster.add_node(name, xml=xml)
    expected = {serial for xml in hardware.values() for serial in serials(xml)}
    row.expected += len(expected)
    with Operator(cluster) as operator:

        def asked() -> list[dict[str, Any]]:
            """The outcome of `kubectl gpuid read`, once all inventories exist."""
            rows = _ask_for_reads(cluster, *hardware)
            assert all(row["reason"] != "Unknown" for row in rows), rows
            return rows

        rows = eventually(asked)
        assert all(row["ready"] for row in rows), rows

        def delivered_all() -> None:
            for name in hardware:
                read_well(cluster, name)

        eventually(delivered_all)
        delivered = {record["gpu"] for record in operator.records()}
    row.delivered += len(delivered & expected)
    assert delivered == expected
    for name in hardware:
        cluster.delete_node(name)
    cluster.client.send(Request("DELETE", INVENTORIES))


def _ask_for_reads(cluster: LocalCluster, *names: str) -> list[dict[str, Any]]:
    environment = {"KUBECONFIG": str(cluster.kubeconfig)}
    words = ["read", *names, "-o", "json"]
    result = CliRunner().invoke(cli, words, prog_name=PROGRAM, env=environment)
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows
