"""Faults at the node: exec that fails in every way, pods that go, GPUs that come, go and move.

On the fake API server, where an hour takes no time. `tests/faults/test_node_faults_real.py` has the
part that needs real execs.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gpuid_operator.plan.smi import MAX_OUTPUT_BYTES
from tests.faults.campaign import SEED, WHOLE, Figures
from tests.support.clock import JumpingLoop
from tests.support.exec_faults import FAILURES, STRAIN
from tests.support.fleet_run import MODELS, POD_GOES, SHORT, FleetRun, Step, script
from tests.support.gpu_fleet import changes
from tests.support.kube import FakeKube
from tests.support.objects import inventory_path, node_path

RUNS, STEPS = (40, 60) if WHOLE else (1, 15)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", [SEED + number for number in range(RUNS)])


def run(seed: int, steps: list[Step], *, faults: bool) -> FleetRun:
    """Play the script in a loop of its own."""
    random.seed(seed)  # of the jitter, so that a seed repeats the whole run

    async def play() -> FleetRun:
        played = FleetRun(FakeKube(), random.Random(seed), faults=faults)
        await played.play(steps)
        return played

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(play())


def test_after_faults_all_is_as_without(seed: int, figures: Callable[[str], Figures]) -> None:
    row = figures("node faults")
    steps = script(seed, STEPS)
    plain, faulty = (run(seed, steps, faults=faults) for faults in (False, True))
    row.injected, row.expected = faulty.injected, len(plain.harness.records)
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


def judge(steps: list[Step], played: FleetRun) -> None:
    """What was sent in each step is what changed between the machines, no more and no less."""
    before: dict[str, Any] = {}
    seen: set[str] = set()
    for number, step in enumerate(steps):
        for node, here in step.fleet.items():
            expected = changes(before.get(node), here, returns=node in seen)
            assert played.said[number][node] == expected, f"step {number}, {node}"
            if here is not None:
                seen.add(node)
        before = step.fleet


def essence(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """A record without its time, its number and the pod from which it came."""
    kept = sorted(record.items() - {(name, record.get(name)) for name in ("id", "sequence")})
    return tuple(item for item in kept if item[0] not in ("time", "source"))


def remains(played: FleetRun, node: str) -> dict[str, Any]:
    """Facts and labels at the end, without what names a pod, a time or a number."""
    kube, status = played.kube, played.status(node)
    kept = [
        "state",
        "gpus",
        "serials",
        "chassis",
        "gpuCount",
        "product",
        "driverVersion",
        "cudaVersion",
        "policy",
    ]
    body = kube.objects.get(inventory_path(node), {"metadata": {}})
    found = {name: status.get(name) for name in kept}
    found["labels"] = body["metadata"].get("labels")
    found["node labels"] = kube.objects.get(node_path(node), {}).get("metadata", {}).get("labels")
    found["conditions"] = [
        (one["type"], one["status"], one["reason"], one["message"])
        for one in status.get("conditions", ())
    ]
    return found


def history_is_sent(played: FleetRun, node: str) -> bool:
    """Each entry that history holds was sent to one of the sinks."""
    sent = {
        (record["sequence"], record["event"])
        for record in played.harness.records
        if record["node"] == node
    }
    history = played.status(node).get("history", ())
    return {(entry["sequence"], entry["type"]) for entry in history} <= sent


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
