"""Texts of nvidia-smi, which the parser caches."""

from __future__ import annotations

import sys

import pytest

from gpuid_operator.plan.smi_values import MAX_TEXT, text_of


@pytest.mark.parametrize("length", [1, MAX_TEXT, 2 * MAX_TEXT, 2 * MAX_TEXT + 1, 100_000])
def test_a_text_has_the_same_value_whether_it_is_cached_or_not(length: int) -> None:
    raw = f"  {'x' * length}\t"
    assert {text_of(raw) for _ in range(3)} == {"x" * min(length, MAX_TEXT)}


def test_a_long_text_is_not_kept() -> None:
    """A container may print anything; a thousand outputs of a megabyte must not stay in memory."""
    raw = "".join(["x"] * 100_000)
    before = sys.getrefcount(raw)
    text_of(raw)
    assert sys.getrefcount(raw) == before
