"""Faults of the API server, one at each single request of a scenario in turn, then in pairs.

The operator's engine runs on the API server in memory, under a clock that jumps, so a run takes a
twentieth of a second and every fault can come at every place. `test_api_proxy.py` lets a part of
them happen between the operator's process and a real API server.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

import pytest

from tests.faults.campaign import LIMIT, SEED, WHOLE, Figures
from tests.support import fault_runs
from tests.support.fault_runs import Injection, Played

PART = 100
"""Runs of each test in the part that `make test` runs."""
PAIRS = 1000
"""Pairs of faults in the whole campaign."""

FiguresOf = Callable[[str], Figures]


@pytest.fixture(scope="module")
def undisturbed() -> Played:
    return fault_runs.run(seed=SEED)


def survive(
    undisturbed: Played, rounds: Iterable[Sequence[Injection]], figures: Figures
) -> list[str]:
    """Run the scenario once for each round of faults; what came out differently."""
    failures = []
    for faults in rounds:
        outcome = fault_runs.run(faults, seed=SEED)
        differences = outcome.differences(undisturbed)
        figures.injected += len(faults)
        figures.survived += 0 if differences else len(faults)
        figures.expected += undisturbed.entries()
        figures.delivered += min(outcome.entries(), undisturbed.entries())
        figures.doubled += outcome.doubled()
        if differences:
            failures.append(f"{' and '.join(map(str, faults))}: {differences[0][:300]}")
    return failures


@pytest.mark.timeout(LIMIT)
def test_a_fault_at_any_request_leaves_no_trace(undisturbed: Played, figures: FiguresOf) -> None:
    every = fault_runs.injections(undisturbed)
    chosen = every if WHOLE else random.Random(SEED).sample(every, PART)
    row = figures("API in memory, each request")
    assert survive(undisturbed, ([one] for one in chosen), row) == []


@pytest.mark.timeout(LIMIT)
def test_two_faults_leave_no_trace(undisturbed: Played, figures: FiguresOf) -> None:
    every = fault_runs.injections(undisturbed)
    draw = random.Random(SEED)
    pairs = (draw.sample(every, 2) for _ in range(PAIRS if WHOLE else PART // 2))
    row = figures("API in memory, pairs")
    assert survive(undisturbed, pairs, row) == []
