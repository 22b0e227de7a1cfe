"""When nodes are listed, delivered and labelled, from the events of two watches."""

from __future__ import annotations

from typing import Any

from tests.bench.listing import Listing

COLUMNS = [{"name": name} for name in ("Name", "GPUs", "Ready", "Delivered")]


def event(kind: str, *rows: list[Any], columns: bool = False) -> dict[str, Any]:
    table = {
        "columnDefinitions": COLUMNS if columns else None,
        "rows": [{"cells": r} for r in rows],
    }
    return {"type": kind, "object": table}


def test_a_node_is_listed_with_its_first_good_read_and_delivered_when_it_says_so() -> None:
    seen = Listing()
    seen.inventory_event(event("ADDED", ["n1", None, None, None], columns=True))
    assert (seen.listed, seen.delivered) == ({}, set())
    seen.inventory_event(event("MODIFIED", ["n1", 8, "True", "Unknown"]))
    first = seen.listed["n1"]
    assert seen.delivered == set()
    seen.inventory_event(event("MODIFIED", ["n1", 8, "True", "True"]))
    assert seen.listed == {"n1": first}
    assert seen.delivered == {"n1"}
    assert seen.changed >= first


def test_a_node_with_something_left_to_deliver_is_not_delivered_any_more() -> None:
    seen = Listing()
    seen.inventory_event(event("ADDED", ["n1", 8, "True", "True"], columns=True))
    seen.inventory_event(event("MODIFIED", ["n1", 8, "True", "False"]))
    assert seen.delivered == set()
    assert set(seen.listed) == {"n1"}


def node(**labels: str) -> dict[str, Any]:
    return {"type": "MODIFIED", "object": {"metadata": {"name": "n1", "labels": labels}}}


def test_a_node_is_labelled_with_its_first_label_of_gpuid() -> None:
    seen = Listing()
    seen.node_event(node(app="x"))
    assert seen.labelled == {}
    seen.node_event(node(**{"gpuid.github.com/gpu-0": "1"}))
    first = seen.labelled["n1"]
    seen.node_event(node(**{"gpuid.github.com/gpu-0": "2"}))
    assert seen.labelled == {"n1": first}
