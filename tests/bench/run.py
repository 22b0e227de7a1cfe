"""Measure the operator, perhaps beside gpuid: `make bench`.

Each scenario writes build/bench/SCENARIO.json and prints its table. All scenarios but `large` share
one fleet of simulated nodes. SIGTERM and Ctrl-C end the fleet and every program.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any, Final

from gpuid_operator.localcluster import LocalClusterError
from tests.bench import coldstart, known, large, results, storm, swaps
from tests.bench.errors import BenchError
from tests.bench.programs import Program, peer
from tests.bench.simulated_fleet import SimulatedFleet

UNKNOWN: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "instant": coldstart.instant,
    "real": coldstart.real,
}
"""Scenarios on a fleet that no program knows, which leave it so."""
KNOWN: Final = ("restart", "idle", "reads", "resync", "swaps", "storm")
"""Scenarios on a fleet that the operator knows, with full histories."""
LARGE: Final = "large"
SCENARIOS: Final = (*UNKNOWN, *KNOWN, LARGE)
"""In the order in which they run."""
DEFAULT: Final = "instant,real"


def scenarios(text: str) -> list[str]:
    """The scenarios of a list with commas, in the order in which they run; `all` has them all.

    Raises ArgumentTypeError for an unknown one.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = set(names) - {*SCENARIOS, "all"}
    if unknown or not names:
        wrong = ", ".join(sorted(unknown)) or "none"
        known = ", ".join((*SCENARIOS, "all"))
        raise argparse.ArgumentTypeError(f"scenarios {wrong}: the scenarios are {known}")
    return [name for name in SCENARIOS if "all" in names or name in names]


class Session:
    """The scenarios of one run, and the fleet that they share."""

    def __init__(self, stack: ExitStack, options: argparse.Namespace) -> None:
        self._stack = stack.enter_context(ExitStack())
        self._options = options
        self._peer: Program | None = options.peer
        self._fleet: SimulatedFleet | None = None
        self._known = False

    def run(self, scenario: str) -> None:
        fleet = self._large() if scenario == LARGE else self._shared()
        if scenario in KNOWN and not self._known:
            known.make_known(fleet, say)
            self._known = True
        began = time.monotonic()
        say(f"{scenario}: begins")
        figures = self._measure(scenario, fleet)
        results.report(scenario, figures, seconds=time.monotonic() - began)

    def discard(self) -> None:
        """End the fleet; the next scenario gets another one."""
        self._stack.close()
        self._fleet, self._known = None, False

    def _measure(self, scenario: str, fleet: SimulatedFleet) -> dict[str, Any]:
        match scenario:
            case "restart":
                return known.restart(fleet, say)
            case "idle":
                return known.idle(fleet, say, seconds=self._options.idle_seconds)
            case "reads":
                return known.reads(fleet, say)
            case "resync":
                return known.resync(fleet, say)
            case "swaps":
                return swaps.swaps(fleet, say)
            case "storm":
                return storm.storm(fleet, say)
            case "large":
                return large.large(fleet, self._peer, say)
        return UNKNOWN[scenario](fleet, self._peer, say)

    def _large(self) -> SimulatedFleet:
        """A fleet of its own: two at a time do not fit into memory."""
        self.discard()
        return self._stack.enter_context(SimulatedFleet.up(self._options.nodes_large, progress=say))

    def _shared(self) -> SimulatedFleet:
        if self._fleet is None:
            fleet = SimulatedFleet.up(
                self._options.nodes, progress=say, quarantines=self._options.quarantines
            )
            self._fleet = self._stack.enter_context(fleet)
        return self._fleet


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _end(number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does, once: what ends the fleet must not be interrupted."""
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ", ".join(SCENARIOS)
    parser.add_argument(
        "--scenarios", type=scenarios, default=DEFAULT, help=f"of {known}, or all ({DEFAULT})"
    )
    parser.add_argument("--nodes", type=int, default=1000, help="nodes of the fleet (1000)")
    parser.add_argument("--nodes-large", type=int, default=5000, help="nodes of `large` (5000)")
    parser.add_argument("--idle-seconds", type=float, default=120, help="of idle time (120)")
    parser.add_argument("--quarantines", type=int, default=0, help="of parts that no node has (0)")
    parser.add_argument("--peer", type=peer, help="a binary of gpuid to measure, too")
    options = parser.parse_args(arguments)
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, _end)
    began = time.monotonic()
    say(f"load of this machine: {results.LOAD_BEFORE} on {os.cpu_count()} cores")
    failed = []
    with ExitStack() as stack:
        session = Session(stack, options)
        for scenario in options.scenarios:
            try:
                session.run(scenario)
            except (BenchError, LocalClusterError, subprocess.CalledProcessError) as error:
                say(f"{scenario}: failed to measure: {error}")
                failed.append(scenario)
                session.discard()
    say(f"took {time.monotonic() - began:.0f} s; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
