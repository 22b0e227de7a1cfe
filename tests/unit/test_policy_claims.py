"""How many nodes each policy applies to, and which policies compete."""

from __future__ import annotations

import pytest

from gpuid_operator.plan.policy_claims import count_claims


@pytest.mark.parametrize(
    ("matching", "nodes", "rivals"),
    [
        pytest.param([], {}, {}, id="no nodes"),
        pytest.param([[], []], {}, {}, id="no policy matches"),
        pytest.param([["a"], ["a"], ["b"]], {"a": 2, "b": 1}, {"a": [], "b": []}, id="no rivals"),
        pytest.param([["a", "b"]], {"a": 1}, {"a": ["b"], "b": ["a"]}, id="rivals on one node"),
        pytest.param(
            [["a", "b"], ["a", "c"], ["b"]],
            {"a": 2, "b": 1},
            {"a": ["b", "c"], "b": ["a"], "c": ["a"]},
            id="other rivals on other nodes",
        ),
    ],
)
def test_the_first_policy_of_a_node_applies_and_the_others_are_rivals(
    matching: list[list[str]], nodes: dict[str, int], rivals: dict[str, list[str]]
) -> None:
    claims = count_claims(matching)
    assert dict(claims.nodes) == nodes
    assert {name: sorted(others) for name, others in claims.rivals.items()} == rivals
