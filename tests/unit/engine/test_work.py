"""Budgets for the work that a new node takes, as counts; `make bench-work` prints all of them.

Each budget is an upper bound. Lower it when the work becomes less; raise it only for a feature that
is worth the cost at 5,000 nodes.
"""

from __future__ import annotations

import orjson
import pytest

from gpuid_operator.plan.smi import parse
from tests.bench.work import CallCounter, Counts, count
from tests.support.smi_fixtures import machine

BUDGETS: dict[str, Counts] = {
    "requests": {
        "POST gpuinventories": 1,
        "PATCH gpuinventories/status": 2,
        "PATCH gpuinventories": 0,
        "PATCH nodes": 1,
        "GET nodes": 0,
        "POST events": 0,
        "exec": 1,
    },
    "bytes": {"sent": 17_000, "received": 6_600},
    "calls": {
        "JSON parsed": 4,
        "JSON written": 5,
        "compressed": 3,
        "decompressed": 0,
        "models validated": 49,
        "models dumped": 12,
        "models copied": 6,
    },
    "functions": {
        "api": 240,
        "engine/reading": 30,
        "engine/reconcile": 70,
        "engine/state": 500,
        "engine/writing": 125,
        "engine/delivery": 75,
        "kube": 100,
        "plan": 1_250,
        "telemetry": 230,
    },
}


@pytest.fixture(scope="module")
def counts() -> dict[str, Counts]:
    return count()


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, budget in BUDGETS.items() for name in budget]
)
def test_a_new_node_takes_no_more_than_its_budget(
    counts: dict[str, Counts], group: str, name: str
) -> None:
    assert counts[group].get(name, 0) <= BUDGETS[group][name]


def test_500_quarantines_of_other_parts_add_less_than_3_percent(counts: dict[str, Counts]) -> None:
    """Beside what is done once, at the start."""
    guarded = count(quarantines=500)
    for group in ("requests", "calls"):
        assert nonzero(guarded[group]) == nonzero(counts[group])
    for group in ("bytes", "functions"):
        assert sum(guarded[group].values()) < 1.03 * sum(counts[group].values())


def nonzero(counts: Counts) -> Counts:
    return {name: value for name, value in counts.items() if value}


def test_no_request_of_another_kind_is_sent_per_node(counts: dict[str, Counts]) -> None:
    sent = {name for name, value in counts["requests"].items() if value > 0}
    assert sent <= BUDGETS["requests"].keys()


def test_calls_count_inside_the_context_and_from_the_package() -> None:
    xml = machine("n1").encode()
    counter = CallCounter()
    parse(xml, exit_code=0, stderr=b"")
    with counter.counting():
        parse(xml, exit_code=0, stderr=b"")
        orjson.dumps({})  # of this test, not of the package
    inside = dict(counter.parts)
    parse(xml, exit_code=0, stderr=b"")
    assert counter.parts == inside
    assert inside.keys() == {"plan", "api"} or inside.keys() == {"plan"}
    assert counter.kinds["models validated"] > 0
    assert counter.kinds["JSON written"] == 0


def test_counts_are_the_same_again(counts: dict[str, Counts]) -> None:
    again = count()
    for group in ("requests", "bytes", "calls"):
        assert again[group] == counts[group]
