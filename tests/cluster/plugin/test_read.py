"""`kubectl gpuid read` asks for a read and waits for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import Result

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from gpuid_operator.localcluster.smi import generate
from tests.cluster.plugin.inventories import (
    change,
    put,
    ready,
)
from tests.support.operators import INVENTORIES, Operator, eventually


@pytest.fixture
def answering(fleet: LocalCluster) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """`answering(node, status)` handles the next request of a node as the operator would."""
    threads = []

    def answer(node: str, status: dict[str, Any]) -> None:
        def handle() -> None:
            def asked() -> str:
                meta = fleet.client.get(f"{INVENTORIES}/{node}")["metadata"]
                token = meta.get("annotations", {}).get("gpuid.github.com/requestedAt")
                assert token is not None
                return str(token)

            change(fleet, node, lastHandledRequest=eventually(asked), **status)

        threads.append(threading.Thread(target=handle))
        threads[-1].start()

    yield answer
    for thread in threads:
        thread.join()


def test_read_waits_for_what_comes_out(
    fleet: LocalCluster,
    run: Callable[..., Result],
    answering: Callable[[str, dict[str, Any]], None],
) -> None:
    for name in "good", "bad":
        put(fleet, name)
    answering("good", {"gpuCount": 8})
    answering("bad", {"conditions": [ready("False", "TimedOut", "no end within 30s")]})
    result = run("read", "good", "bad", "good", "absent", "good/status")
    assert (result.exit_code, result.stderr) == (1, "")
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["NODE", "READY", "GPUS", "SECONDS", "RESULT"]
    by_node = {line.split()[0]: line.split(maxsplit=4)[1:] for line in lines}
    assert len(lines) == 4
    assert by_node["good"][:2] == ["True", "8"]
    assert by_node["good"][3] == "driver 570.86.15"
    assert by_node["bad"][0] == "False"
    assert by_node["bad"][3] == "TimedOut: no end within 30s"
    for name in "absent", "good/status":
        assert "no GPUInventory with this name" in by_node[name][3]


def test_read_is_good_when_all_nodes_are(
    fleet: LocalCluster,
    run: Callable[..., Result],
    answering: Callable[[str, dict[str, Any]], None],
) -> None:
    put(fleet, "n-1")
    put(fleet, "n-2")
    put(fleet, "gone", state="Departed")
    answering("n-1", {})
    answering("n-2", {})
    result = run("read", "--all", "-o", "json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert sorted((row["node"], row["ready"]) for row in rows) == [("n-1", True), ("n-2", True)]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"state": "Departed"}, "Departed"),
        ({"conditions": [ready("True", "Suspended")]}, "Suspended"),
        ({}, "NoAnswer"),
    ],
)
def test_read_says_why_nothing_comes(
    facts: dict[str, Any], reason: str, fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    put(fleet, "n", **facts)
    result = run("read", "n", "--timeout", "1ms", "-o", "json")
    assert result.exit_code == 1
    (row,) = json.loads(result.stdout)
    assert (row["ready"], row["reason"]) == (False, reason)


def test_a_read_that_someone_asked_for_later_will_do(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    put(fleet, "n")
    path = f"{INVENTORIES}/n"
    annotation = "gpuid.github.com/requestedAt"

    def someone_else() -> None:
        def asked() -> None:
            assert annotation in fleet.client.get(path)["metadata"].get("annotations", {})

        eventually(asked)
        # What the status keeps of a long token is its beginning.
        body = {"metadata": {"annotations": {annotation: "x" * 2000}}}
        fleet.client.send(Request("PATCH", path, body, content_type=MERGE))
        change(fleet, "n", lastHandledRequest="x" * 900 + "…")

    thread = threading.Thread(target=someone_else)
    thread.start()
    assert run("read", "n").exit_code == 0
    thread.join()


def test_with_the_operator_a_swap_is_read_and_found(
    fleet: LocalCluster, run: Callable[..., Result]
) -> None:
    names = ("gpu-plugin-a", "gpu-plugin-b")
    for name in names:
        fleet.add_node(name)
    try:
        with Operator(fleet):

            def known() -> None:
                result = run("read", *names)
                assert result.exit_code == 0, result.output

            eventually(known)
            before = json.loads(run("list", "-o", "json").stdout)
            (serial, *_) = before[0]["serials"]
            fleet.write_smi(names[0], generate("h100", node=names[1]))
            fleet.write_smi(names[1], generate("h100", node=names[0]))
            assert run("read", "--all").exit_code == 0

            def found() -> None:
                # The labels that it searches by are written after the status.
                rows = json.loads(run("where", serial, "-o", "json").stdout)
                assert [(row["node"], row["present"]) for row in rows] == [
                    (names[1], True),
                    (names[0], False),
                ]
                assert rows[1]["until"] is not None
                entries = json.loads(run("history", serial, "-o", "json").stdout)
                # Either node may be read first.
                assert sorted((one["node"], one["type"]) for one in entries) == [
                    (names[0], "GPUAdded"),
                    (names[0], "GPURemoved"),
                    (names[1], "GPUAdded"),
                ]

            eventually(found)
    finally:
        for name in names:
            fleet.delete_node(name)
