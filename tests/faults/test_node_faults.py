"""Faults at the node: exec that fails in every way, pods that go, GPUs that come, go and move.

On the fake API server, where an hour takes no time. `tests/faults/test_node_faults_real.py` has the
part that needs real execs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from gpuid_operator.plan.smi import MAX_OUTPUT_BYTES
from tests.faults.campaign import SEED, WHOLE, Figures
from tests.support.exec_faults import FAILURES, STRAIN
from tests.support.fleet_judge import essence, history_is_sent, judge, remains, run
from tests.support.fleet_run import MODELS, POD_GOES, SHORT, script

RUNS, STEPS = (40, 60) if WHOLE else (1, 15)


@pytest.fixture(params=range(RUNS))
def seed(request: pytest.FixtureRequest) -> int:
    """A run of its own for each seed."""
    return SEED + int(request.param)


def test_after_faults_all_is_as_without(seed: int, figures: Callable[[str], Figures]) -> None:
    row = figures(f"node faults, {seed}")
    steps = script(seed, STEPS)
    plain, faulty = (run(seed, steps, faults=faults) for faults in (False, True))
    row.injected = faulty.injected
    expected, delivered = (Counter(map(essence, one.changes_sent())) for one in (plain, faulty))
    ids = [record["id"] for record in faulty.harness.records]
    row.expected, row.delivered = expected.total(), (expected & delivered).total()
    row.doubled = len(ids) - len(set(ids)) + (delivered - expected).total()

    for judged in (plain, faulty):
        judge(steps, judged)
    assert delivered == expected
    assert len(set(ids)) == len(ids)
    for node in MODELS:
        assert remains(faulty, node) == remains(plain, node)
        assert history_is_sent(faulty, node)
    assert faulty.kube.exec.flooded <= faulty.floods * (MAX_OUTPUT_BYTES + 65_536)
    row.survived = row.injected


def test_every_fault_is_drawn() -> None:
    """A campaign that left faults out would prove nothing about them."""
    drawn = {
        fault
        for seed in range(20)
        for step in script(seed, 30)
        for faults in step.faults.values()
        for fault in faults
    }
    assert drawn == {*FAILURES, *STRAIN, POD_GOES, SHORT}
