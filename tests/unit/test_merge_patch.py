"""Merge patches of labels."""

from __future__ import annotations

import pytest

from gpuid_operator.plan.merge_patch import merge_patch


@pytest.mark.parametrize(
    ("changes", "merged"),
    [
        pytest.param({}, {"a": "1"}, id="no change"),
        pytest.param({"b": "2"}, {"a": "1", "b": "2"}, id="set"),
        pytest.param({"a": "2"}, {"a": "2"}, id="replace"),
        pytest.param({"a": None}, {}, id="remove"),
        pytest.param({"b": None}, {"a": "1"}, id="remove what is not there"),
    ],
)
def test_changes_set_and_remove_labels(
    changes: dict[str, str | None], merged: dict[str, str]
) -> None:
    labels = {"a": "1"}
    assert merge_patch(labels, changes) == merged
    assert labels == {"a": "1"}
