"""`kubectl gpuid where` finds a GPU by its identifiers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

import pytest
from click.testing import Result

from gpuid_operator.localcluster import LocalCluster
from tests.cluster.plugin.inventories import (
    HERE,
    UUID_1,
    UUID_2,
    at,
    change,
    entry,
    gpu,
    put,
    ready,
)
from tests.support import audit
from tests.support.operators import INVENTORIES, eventually


def test_where_tells_where_a_gpu_is_and_was(moved: None, run: Callable[..., Result]) -> None:
    result = run("where", UUID_1.upper())
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["SERIAL", "UUID", "NODE", "MACHINE", "PCI", "FROM", "TO", "STATE"],
        ["S/1", UUID_1, "n-b", "i-1", "00000000:01:00.0", at(7), "now", "OK"],
        ["S/1", UUID_1, "n-a", "i-1", "00000000:01:00.0", at(1), at(5), "Past"],
    ]


@pytest.mark.parametrize("serial", ["S/1", "S-1"])
def test_twins_that_share_a_serial_are_listed_each(
    serial: str, moved: None, run: Callable[..., Result]
) -> None:
    rows = json.loads(run("where", serial, "-o", "json").stdout)
    assert [(row["uuid"], row["node"], row["present"]) for row in rows] == [
        (UUID_1, "n-b", True),
        (UUID_1, "n-a", False),
        (UUID_2, "n-b", True),
    ]


def test_where_lists_the_gpus_of_a_chassis(moved: None, run: Callable[..., Result]) -> None:
    rows = list(csv.DictReader(io.StringIO(run("where", "C1", "-o", "csv").stdout)))
    assert [(row["uuid"], row["chassis"], row["until"]) for row in rows] == [(UUID_1, "C1", "")]


def test_where_asks_the_server_to_select(
    moved: None, fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    before = len(audit.events(fleet))
    assert run("where", UUID_1).exit_code == 0

    def asked() -> list[str]:
        # The controller manager watches inventories, too.
        events = [one for one in audit.events(fleet, since=before) if audit.user_of(one) == "admin"]
        uris = [one["requestURI"] for one in events]
        found = [uri for uri in uris if uri.startswith(INVENTORIES)]
        assert len(set(found)) == 3
        return found

    assert all("labelSelector" in uri for uri in eventually(asked))


def test_what_no_label_names_is_found_in_histories(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    one = gpu(UUID_1, "S1")
    put(fleet, "n-a", history=[entry(5, "GPURemoved", one)], labelled=False)
    result = run("where", "S1")
    assert result.exit_code == 0
    assert "searching every history" in result.stderr
    assert result.stdout.splitlines()[1].split()[5:] == ["unknown", at(5), "Past"]
    # Found by its label elsewhere, it is sought everywhere only when asked.
    put(fleet, "n-b", gpus=[one], history=[entry(7, "GPUAdded", one)])
    assert [row["node"] for row in json.loads(run("where", "S1", "-o", "json").stdout)] == ["n-b"]
    result = run("where", "S1", "--scan", "-o", "json")
    assert [row["node"] for row in json.loads(result.stdout)] == ["n-b", "n-a"]
    assert result.stderr == ""


@pytest.mark.parametrize("identifier", ["S404", "///", "S9,S1", "n-b"])
def test_a_gpu_that_nobody_saw_is_unknown(
    identifier: str, moved: None, run: Callable[..., Result]
) -> None:
    result = run("where", identifier, "-o", "json")
    assert (result.exit_code, result.stdout) == (1, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"{identifier} not found: ")
    assert HERE in last


def test_where_says_when_a_node_is_not_read_any_more(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    conditions = [ready("False", "TimedOut", "no end\nin 30s")]
    put(fleet, "n", gpus=[gpu(UUID_1, "S1")], conditions=conditions)
    result = run("where", "S1", "-o", "wide")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split()[-2:] == ["False", "-"]
    assert result.stderr == (
        f"warning: the last successful read of n was at {at(30)}; not ready since then: TimedOut:"
        " no end in 30s\n"
    )


def test_where_says_when_several_inventories_list_a_gpu(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    put(fleet, "n-a", gpus=[gpu(UUID_1, "S1"), gpu(UUID_2, "S1")])
    put(fleet, "n-b", gpus=[gpu(UUID_1, "S1")], lastReadTime=at(40))
    result = run("where", "S1", "-o", "json")
    assert result.stderr == (
        f"warning: {UUID_1} is in the inventories of n-a (read at {at(30)}) and n-b (read at"
        f" {at(40)}); if it moved, the latest read is right\n"
    )
    rows = json.loads(result.stdout)
    assert {(row["uuid"], row["node"], *row["alsoOn"]) for row in rows} == {
        (UUID_1, "n-a", "n-b"),
        (UUID_1, "n-b", "n-a"),
        (UUID_2, "n-a"),
    }
    elsewhere = ready("False", "SeenElsewhere") | {"type": "Unique"}
    for name in ("n-a", "n-b"):
        change(fleet, name, conditions=[ready(), elsewhere])
    assert run("where", UUID_1).stderr == (
        f"warning: {UUID_1} is on n-a and n-b at the same time, as nvidia-smi says\n"
    )
