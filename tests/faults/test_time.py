"""Time: clocks that are set in both directions, and 400 days of a node."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest

from gpuid_operator.api.values import format_time
from gpuid_operator.engine.core.options import Timings
from gpuid_operator.plan import history
from gpuid_operator.plan.schedule import JITTER
from tests.faults.campaign import LIMIT, SEED, WHOLE, Figures
from tests.support import clock
from tests.support.clock import JumpingLoop
from tests.support.engines import EngineHarness, builtin, until
from tests.support.fake_exec import ExecAnswer, ExecCall
from tests.support.fleet_judge import history_is_sent, judge, remains, run
from tests.support.fleet_run import (
    MODELS,
    SINKS,
    Step,
    facts,
    is_delivered,
    machine_facts,
    script,
)
from tests.support.kube import FakeKube
from tests.support.moving_gpus import DRIVERS, JUDGED, Changes, Machine, Part, Seat, changes
from tests.support.objects import (
    inventory_path,
    node_path,
    pod_path,
    put_node,
    put_pod,
    put_policy,
)
from tests.support.policy_checks import check

RUNS, STEPS = (20, 60) if WHOLE else (1, 12)
JUMPS: Final = tuple(
    sign * timedelta(seconds=seconds)
    for seconds in (5, 40, 600, 3600, 100_000, 400 * 86_400, 3650 * 86_400)
    for sign in (1, -1)
)
DAYS: Final = 400 if WHOLE else 140
HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
NODE: Final = "gpu-a"


@pytest.fixture(params=range(RUNS))
def seed(request: pytest.FixtureRequest) -> int:
    """A run of its own for each seed."""
    return SEED + int(request.param)


class Adjuster:
    """Sets the wall clock at random moments, wrong and right again."""

    def __init__(self, patch: pytest.MonkeyPatch, rng: random.Random) -> None:
        self._patch = patch
        self._rng = rng
        self._right = clock.START

    def __call__(self) -> int:
        """Set it a few times within the next seconds; how often."""
        times = self._rng.randrange(4)
        for _ in range(times):
            by = self._rng.choice((timedelta(0), *JUMPS))
            asyncio.get_running_loop().call_later(self._rng.uniform(0, 15), self.set, by)
        return times

    def set(self, by: timedelta) -> None:
        """Let the clock be wrong by so much."""
        self._patch.setattr(clock, "START", self._right + by)


def test_jumps_of_the_clock_change_nothing(
    seed: int, figures: Callable[[str], Figures], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = figures(f"clock jumps, {seed}")
    steps = script(seed, STEPS)
    condemned = quarantines(steps[0])
    plain = run(seed, steps, faults=False, quarantines=condemned)
    adjuster = Adjuster(monkeypatch, random.Random(seed))
    jumping = run(seed, steps, faults=True, meanwhile=adjuster, quarantines=condemned)
    ids = [record["id"] for record in jumping.harness.records]
    row.injected, row.expected = jumping.injected, len(plain.changes_sent())
    row.delivered, row.doubled = len(jumping.changes_sent()), len(ids) - len(set(ids))

    judge(steps, jumping)
    assert len(set(ids)) == len(ids)
    assert row.delivered == row.expected
    assert "GPUQuarantined" in {record["event"] for record in jumping.changes_sent()}
    assert "ended" not in {record.get("to") for record in jumping.changes_sent()}
    for node in MODELS:
        assert remains(jumping, node) == remains(plain, node)
        assert history_is_sent(jumping, node)
    row.survived = row.injected


def quarantines(step: Step) -> dict[str, dict[str, Any]]:
    """One that is in force for a month, and one that ended a month ago, both for the first GPU of
    each machine."""
    parts = [{"uuid": next(iter(here.parts))} for here in step.fleet.values() if here is not None]
    month = timedelta(days=30)
    ends = {"ended": clock.START - month, "lasting": clock.START + month}
    return {
        name: {"parts": parts, "until": format_time(end), "action": "Taint"}
        for name, end in ends.items()
    }


class Receiver(EngineHarness):
    """An engine whose sink of changes has outages."""

    down = False
    batches = 0

    def _write(self, records: Iterable[Mapping[str, object]]) -> None:
        batch = list(records)
        if self.down and batch[0]["event"] != "Sighted":
            raise OSError("no space left on device")
        self.batches += 1
        super()._write(batch)


class Life:
    """Years of one node: what happens to it, and what its inventory says."""

    def __init__(self, kube: FakeKube, rng: random.Random, **options: Any) -> None:
        self.kube = kube
        self.rng = rng
        put_policy(kube, "fleet", checks=[check(interval="24h")])
        self.receiver = Receiver(kube, builtin=builtin(sinks=SINKS), checks_allowed=True, **options)
        kube.exec.decide = self._decide
        self.machine: Machine | None = Machine(
            model="h100",
            number=1,
            boot=1,
            driver=DRIVERS[1],
            seats=tuple(
                Seat(Part("h100", "first", index), f"00000000:0{index}:00.0") for index in range(4)
            ),
        )
        self.expected: Changes = changes(None, self.machine)
        self.check_passes = True
        self.check_turns = 0
        self.runs: Counter[str] = Counter()
        self.containers = 0
        self.parts = 0
        self.events = 0
        self.restart()
        put_node(kube, NODE)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.kube.objects[inventory_path(NODE)]["status"]
        return found

    def become(self, machine: Machine | None, *, returns: bool = False) -> None:
        """Another hardware, or none, is behind the node's name."""
        self.expected += changes(self.machine, machine, returns=returns)
        self.machine = machine
        self.events += 1

    def restart(self) -> None:
        """The target container restarts."""
        self.containers += 1
        self.events += 1
        self.receiver.pod_event(put_pod(self.kube, NODE, number=self.containers))

    def _decide(self, call: ExecCall) -> ExecAnswer:
        if call.command[0] == "nvidia-smi":
            self.runs["nvidia-smi"] += 1
            assert self.machine is not None
            return ExecAnswer(stdout=self.machine.xml())
        self.runs["check"] += 1
        return ExecAnswer(exit_code=int(not self.check_passes))

    async def live(self, day: int) -> None:
        """What happens at the beginning of a day."""
        here = self.machine
        if here is None:
            if day % 130 == 2:
                put_node(self.kube, NODE)
                seat = Seat(Part("h100", "returned", 0), "00000000:01:00.0")
                self.become(Machine("h100", 1, 1, DRIVERS[1], (seat,)), returns=True)
                self.restart()
            return
        self.receiver.down = day % 90 in (60, 61, 62)
        seats = list(here.seats)
        if day % 130 == 0 and day:
            self.become(None)
            self.kube.remove(node_path(NODE))
            self.receiver.pod_event(self.kube.objects[pod_path(f"plugin-{NODE}")], deleted=True)
            self.kube.remove(pod_path(f"plugin-{NODE}"))
        elif day % 20 == 10:
            self.parts += 1
            at = self.rng.randrange(len(seats))
            seats[at] = replace(seats[at], part=Part("h100", f"spare-{self.parts}", 0), lost=False)
            self.become(replace(here, seats=tuple(seats)))
        elif day % 44 == 20:
            self.become(replace(here, driver=self.rng.choice([*{*DRIVERS} - {here.driver}])))
        elif day % 36 in (12, 16):
            seats[0] = replace(seats[0], lost=day % 36 == 12)
            self.become(replace(here, seats=tuple(seats)))
        elif day % 32 == 8:
            self.restart()
        elif day % 30 in (4, 6):
            self.check_passes = not self.check_passes
            self.check_turns += 1
            self.events += 1


@pytest.mark.timeout(LIMIT)
def test_years_of_a_node(
    figures: Callable[[str], Figures], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = figures(f"{DAYS} days")
    rng = random.Random(SEED)
    random.seed(SEED)
    adjuster = Adjuster(monkeypatch, rng)
    resync = timedelta(minutes=10) if WHOLE else timedelta(hours=24)

    async def play() -> Life:
        life = Life(FakeKube(), rng, timings=Timings(resync=resync, quarantine_look=resync))
        await life.receiver.engine.start()
        for day in range(0, DAYS, 2):
            await life.live(day)
            if day % 50 == 30:
                row.injected += 2
                adjuster.set(rng.choice(JUMPS))
                await asyncio.sleep(HOUR)
                adjuster.set(timedelta(0))
            await asyncio.sleep(2 * DAY)
        await until(lambda: is_delivered(life.status()))
        await life.receiver.engine.stop(within=10)
        return life

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        life = runner.run(play())
    records = life.receiver.records
    ids = [record["id"] for record in records]
    said = Counter((r["event"], r.get("uuid") or "") for r in records if r["event"] in JUDGED)
    checks = [r["event"] for r in records if r["event"].startswith("Check")]
    row.expected = life.expected.total() + life.check_turns
    row.delivered = (said & life.expected).total() + len(checks)
    row.doubled = len(ids) - len(set(ids))

    # Nothing is lost or made up.
    assert said == life.expected
    assert checks == [("CheckFailed", "CheckPassed")[turn % 2] for turn in range(life.check_turns)]
    assert row.doubled == 0
    status, machine = life.status(), life.machine
    assert machine is not None
    assert facts(status) == machine_facts(machine)
    # The history is bounded.
    entries = status["history"]
    kept = history.KEPT_IDENTITY + history.KEPT_OTHERS + history.KEPT_SIGHTED + len(machine.seats)
    assert len(entries) <= kept + history.KEPT_DEPARTED_UUIDS
    sequences = [entry["sequence"] for entry in entries]
    assert sequences == sorted(set(sequences))
    # Nothing runs and nothing is written without a need.
    needs = life.events + row.injected
    due = DAYS * DAY / (DAY * (1 + JITTER))
    for runs in life.runs.values():
        assert due - needs <= runs <= DAYS + needs
    writes = life.kube.asked("PATCH", f"{inventory_path(NODE)}/status$")
    assert len(writes) <= life.runs.total() + life.receiver.batches + needs
    row.survived = row.injected
