"""A part of the fault campaign of tests/faults/ that takes seconds: single faults of the API."""

from __future__ import annotations

import pytest

from tests.support import fault_runs
from tests.support.fault_runs import Played

SEED = 1
EVERY = 23
"""This part runs each 23rd injection. The number is prime, so that every kind comes."""


@pytest.fixture(scope="module")
def undisturbed() -> Played:
    return fault_runs.run(seed=SEED)


def test_the_scenario_is_the_same_each_time(undisturbed: Played) -> None:
    assert fault_runs.run(seed=SEED).differences(undisturbed) == []


def test_the_scenario_changes_what_the_sinks_hold(undisturbed: Played) -> None:
    history = [entry["type"] for entry in undisturbed.pictures[-2]["inventories"]["n2"]["history"]]
    assert history[-3:] == ["NodeReturned", "GPUAdded", "Sighted"]
    assert undisturbed.entries() > 2 * len(history)
    assert undisturbed.doubled() == 0


def test_a_fault_of_the_api_leaves_no_trace(undisturbed: Played) -> None:
    chosen = fault_runs.injections(undisturbed)[::EVERY]
    assert len({one.kind for one in chosen}) > 20
    for one in chosen:
        assert fault_runs.run([one], seed=SEED).differences(undisturbed) == [], str(one)
