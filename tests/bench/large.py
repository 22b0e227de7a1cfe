"""A large fleet: whether everything grows with the number of nodes, and no faster."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tests.bench import known
from tests.bench.coldstart import cold_start, exec_floor
from tests.bench.programs import LIMITS, OURS, Program
from tests.bench.simulated_fleet import GPUS, Progress, SimulatedFleet


def large(fleet: SimulatedFleet, peer: Program | None, progress: Progress) -> dict[str, Any]:
    """A cold start at the limits of `instant`, then restarts and re-syncs.

    It takes long, so each figure is printed as soon as there is one.
    """
    rows = [
        exec_floor(fleet, "exec alone", workers=int(LIMITS["WORKERS"])),
        cold_start(fleet, OURS, LIMITS, progress),
    ]
    progress(str(rows))
    after = {"restart_short": known.restart(fleet, progress)}
    progress(str(after))
    known.fill(fleet, progress)
    for name, measure in (("restart", known.restart), ("resync", known.resync)):
        after[name] = measure(fleet, progress)
        progress(f"{name}: {after[name]}")
    if peer:
        fleet.undo()
        rows.append(cold_start(fleet, peer, LIMITS, progress))
    return {
        "nodes": fleet.nodes,
        "gpus": GPUS,
        "limits": LIMITS,
        "read_seconds": 0,
        "programs": [asdict(row) for row in rows],
        **after,
    }
