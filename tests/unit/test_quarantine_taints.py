"""Which nodes get the taint of a quarantine, row by row of the table."""

from __future__ import annotations

import pytest

from gpuid_operator.plan.quarantine_taints import (
    DEFAULT_MAX_NODES,
    NodeLimit,
    TaintedNode,
    TaintPlan,
    plan_taints,
)


def decide(*nodes: TaintedNode, allowed: bool = True, limit: int = 9) -> TaintPlan:
    return plan_taints(nodes, allowed=allowed, limit=limit)


@pytest.mark.parametrize(
    ("node", "allowed", "changes"),
    [
        (TaintedNode("n", None, ("a",), untouched=True), True, {}),
        (TaintedNode("n", "a", (), untouched=True), True, {}),
        (TaintedNode("n", "a", ("a",), untouched=True), False, {}),
        (TaintedNode("n", "a", ("a",)), False, {"n": None}),
        (TaintedNode("n", None, ("a",)), False, {}),
        (TaintedNode("n", "b", ("a", "b")), True, {}),
        (TaintedNode("n", "x", ("a", "b")), True, {"n": "a"}),
        (TaintedNode("n", "x", ()), True, {"n": None}),
        (TaintedNode("n", None, ("a", "b")), True, {"n": "a"}),
        (TaintedNode("n", None, ()), True, {}),
    ],
)
def test_what_happens_to_the_taint_of_a_node(
    node: TaintedNode, allowed: bool, changes: dict[str, str | None]
) -> None:
    assert decide(node, allowed=allowed).changes == changes


def test_beyond_the_limit_taints_are_halted_and_those_that_are_there_stay() -> None:
    plan = decide(
        TaintedNode("z", "a", ("a",)),
        TaintedNode("c", None, ("b",)),
        TaintedNode("b", None, ("a",)),
        TaintedNode("d", None, ("a", "b")),
        limit=2,
    )
    assert plan.changes == {"b": "a"}
    assert plan.halted == {"c": ("b",), "d": ("a", "b")}
    assert (plan.tainted, plan.limit) == (2, 2)


def test_a_limit_that_was_lowered_takes_no_taint_away() -> None:
    plan = decide(*(TaintedNode(f"n{n}", "a", ("a",)) for n in range(4)), limit=1)
    assert plan.changes == {}


def test_a_taint_that_is_removed_makes_room_only_after_it_is_gone() -> None:
    gone, new = TaintedNode("a", "x"), TaintedNode("b", None, ("y",))
    plan = decide(gone, new, limit=1)
    assert plan.changes == {"a": None}
    assert plan.halted == {"b": ("y",)}
    assert decide(new, limit=1).changes == {"b": "y"}


def test_removals_come_first() -> None:
    plan = decide(TaintedNode("a", None, ("q",)), TaintedNode("z", "x"))
    assert list(plan.changes.items()) == [("z", None), ("a", "q")]


def test_a_suspended_node_without_its_taint_is_named_and_one_with_it_takes_room() -> None:
    plan = decide(
        TaintedNode("a", None, ("q",), untouched=True),
        TaintedNode("b", "q", ("q",), untouched=True),
        TaintedNode("c", None, ("q",)),
        limit=1,
    )
    assert plan.untouched == {"a": ("q",)}
    assert plan.halted == {"c": ("q",)}


@pytest.mark.parametrize(
    ("text", "nodes", "limit"),
    [
        ("10%", 0, 1),
        ("10%", 9, 1),
        ("10%", 29, 2),
        ("100%", 7, 7),
        ("1%", 5000, 50),
        ("1", 5000, 1),
        ("10000", 5, 10_000),
    ],
)
def test_the_limit_is_a_number_or_a_percentage(text: str, nodes: int, limit: int) -> None:
    assert NodeLimit.parse(text).of(nodes) == limit
    assert str(NodeLimit.parse(text)) == text


def test_the_default_limit() -> None:
    assert str(DEFAULT_MAX_NODES) == "10%"


@pytest.mark.parametrize(
    "text", ["0", "0%", "101%", "10001", "-1", "1.5", "5 %", "%", "many", "１０%", "٣"]
)
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a whole number from 1 to 10000, or a percentage from 1%"):
        NodeLimit.parse(text)
