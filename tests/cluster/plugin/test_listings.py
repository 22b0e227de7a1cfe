"""`kubectl gpuid history`, `list` and `export`."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gpuid_operator.localcluster import LocalCluster
from tests.cluster.plugin.inventories import (
    HERE,
    UUID_1,
    UUID_2,
    at,
    gpu,
    put,
)


def test_history_of_a_gpu_is_merged_over_its_nodes(moved: None, run: Callable[..., Result]) -> None:
    result = run("history", UUID_1)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split()[:4] for line in result.stdout.splitlines()[1:]] == [
        [at(1), "n-a", "GPUAdded", "S/1"],
        [at(5), "n-a", "GPURemoved", "S/1"],
        [at(7), "n-b", "GPUAdded", "S/1"],
    ]
    rows = json.loads(run("history", "S-1", "-o", "json").stdout)
    assert [(row["type"], row["node"]) for row in rows] == [
        ("GPUAdded", "n-a"),
        ("GPUAdded", "n-b"),
        ("GPURemoved", "n-a"),
        ("GPUAdded", "n-b"),
        ("GPULost", "n-b"),
    ]


def test_history_of_a_node_is_all_of_it(moved: None, run: Callable[..., Result]) -> None:
    rows = json.loads(run("history", "n-b", "-o", "json").stdout)
    assert [row["type"] for row in rows] == ["GPUAdded", "GPUAdded", "DriverChanged", "GPULost"]
    assert (rows[2]["from"], rows[2]["to"], rows[2]["cluster"]) == ("565", "570", HERE)
    text = run("history", "n-b").stdout
    assert "from 565 to 570" in text
    assert "nvidia-smi says that the GPU is lost" in text
    assert run("history", "n-c").exit_code == 0


@pytest.mark.parametrize("subject", ["n-404", "../n-b", "n-b/status"])
def test_history_of_what_nobody_knows_is_an_error(
    subject: str, moved: None, run: Callable[..., Result]
) -> None:
    result = run("history", subject)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"{subject} not found: no node has this name")


def test_list_has_a_row_per_node_or_per_gpu(moved: None, run: Callable[..., Result]) -> None:
    rows = json.loads(run("list", "-o", "json").stdout)
    assert [(row["node"], row["serials"], row["ready"]) for row in rows] == [
        ("n-a", [], "True"),
        ("n-b", ["S/1"], "True"),
        ("n-c", ["S9"], "True"),
    ]
    lines = run("list", "--serials").stdout.splitlines()
    assert [line.split()[3] for line in lines[1:]] == [UUID_1, UUID_2, "GPU-9"]


def test_an_empty_fleet_is_said(run: Callable[..., Result]) -> None:
    result = run("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        f"no nodes with GPUs found in context {HERE};"
        " the log of the operator says where it looked\n"
    )
    assert json.loads(run("list", "-o", "json").stdout) == []
    assert json.loads(run("export", "-o", "json").stdout) == []


def test_export_has_every_gpu_of_every_page(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    for number in range(103):
        put(fleet, f"n-{number:03}", gpus=[gpu(f"GPU-{number}", f"S{number}", slot=number)])
    departed = gpu("GPU-d", "Sd", chassisSerial="C")
    put(fleet, "o", gpus=[departed], state="Departed")
    result = run("export")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert list(rows[0]) == [
        *["cluster", "node", "machine", "state", "serial", "uuid", "chassis", "slot", "pci"],
        *["product", "driver", "vbios", "boardPartNumber", "gpuPartNumber", "gpuState"],
        *["lastRead", "quarantines"],
    ]
    assert [row["uuid"] for row in rows] == [f"GPU-{number}" for number in range(103)] + ["GPU-d"]
    assert (rows[7]["slot"], rows[7]["vbios"], rows[7]["state"]) == ("7", "", "Present")
    assert (rows[-1]["state"], rows[-1]["chassis"]) == ("Departed", "C")
    objects = json.loads(run("export", "-o", "json").stdout)
    assert [row["uuid"] for row in objects] == [row["uuid"] for row in rows]


def test_export_ends_quietly_when_nobody_reads_on(fleet: LocalCluster, config: Path) -> None:
    for number in range(3):
        put(fleet, f"n-{number}", gpus=[gpu(f"GPU-{number}", "S")])
    program = Path(sys.executable).with_name("kubectl-gpuid")
    with subprocess.Popen(
        [program, "export", "--kubeconfig", config],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
