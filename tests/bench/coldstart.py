"""Cold starts: from nothing known to every node listed and every record out.

`instant` has an nvidia-smi that takes no time and the same limits for all programs, so that it
shows what they cost. `real` has one that takes as long as a real one, and each program at its own
defaults, so that it shows what users wait for.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from gpuid_operator.operator.settings import Settings
from tests.bench import audit
from tests.bench.errors import BenchError
from tests.bench.listing import Listing, listing
from tests.bench.programs import LIMITS, OURS, PYTHON, Program, Running
from tests.bench.simulated_fleet import GPUS, Progress, SimulatedFleet

READ_SECONDS: Final = 1.5
"""How long a real `nvidia-smi -q -x` takes with eight GPUs."""
DEADLINE: Final = 1800.0
QUIET: Final = 2.0
"""Seconds without a change after which a program has settled."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The costs of one program. Times are in seconds from its start, memory in MB, bytes on the
    wire with TLS; None: the program has no such figure."""

    name: str
    listed: float | None = None
    """Until users see every node: its inventory is ready, or its labels are there."""
    exported: float | None = None
    """Until the last record is in the log; of a floor, until the last read has ended."""
    settled: float | None = None
    """Until nothing is left to write."""
    cpu_ms: float
    """CPU time per node."""
    resident: float
    """Peak."""
    server_cpu_ms: float
    """CPU time of the API server per node."""
    requests: float | None = None
    """Requests per node, all of them."""
    execs: float | None = None
    writes: float | None = None
    bytes_from_server: float | None = None
    """Per node, the output of nvidia-smi included."""
    bytes_to_server: float | None = None


def instant(fleet: SimulatedFleet, peer: Program | None, progress: Progress) -> dict[str, Any]:
    """The same limits for all, beside the floors."""
    floors = [exec_floor(fleet, "exec alone, before", workers=int(LIMITS["WORKERS"]))]
    rows = [cold_start(fleet, OURS, LIMITS, progress)]
    rows.append(write_floor(fleet))
    fleet.undo()
    if peer:
        rows.append(cold_start(fleet, peer, LIMITS, progress))
        fleet.undo()
    floors.append(exec_floor(fleet, "exec alone, after", workers=int(LIMITS["WORKERS"])))
    return {"limits": LIMITS, "read_seconds": 0, **_programs(fleet, floors + rows)}


def real(fleet: SimulatedFleet, peer: Program | None, progress: Progress) -> dict[str, Any]:
    """Each program at its own defaults, and reads that take a while."""
    workers = int(Settings.model_fields["workers"].default)
    with fleet.slow_reads(READ_SECONDS):
        rows = [exec_floor(fleet, f"exec alone, {workers} at a time", workers=workers)]
        rows.append(cold_start(fleet, OURS, {}, progress))
        fleet.undo()
        if peer:
            rows.append(cold_start(fleet, peer, {}, progress))
            fleet.undo()
    return {"limits": {}, "read_seconds": READ_SECONDS, **_programs(fleet, rows)}


def _programs(fleet: SimulatedFleet, rows: list[Figures]) -> dict[str, Any]:
    return {"nodes": fleet.nodes, "gpus": GPUS, "programs": [asdict(row) for row in rows]}


def cold_start(
    fleet: SimulatedFleet, program: Program, limits: Mapping[str, str], progress: Progress
) -> Figures:
    """Run a program on a fleet that it does not know until it has nothing to do any more."""
    nodes = fleet.nodes
    log = fleet.audit_log()
    sent, received = fleet.bytes_to_server(), fleet.bytes_from_server()
    server = fleet.server_cpu()
    with listing(fleet.reader) as seen:
        began = time.monotonic()
        with fleet.start(program, limits) as running:
            exported = wait(running, lambda: running.records() >= nodes * GPUS)
            wait(running, lambda: _is_done(fleet, seen, program))
            figures = Figures(
                name=program.name,
                listed=round(_last(seen, program) - began, 2),
                exported=round(exported - began, 2),
                settled=round(max(seen.changed, exported) - began, 2),
                cpu_ms=round(1000 * running.cpu / nodes, 2),
                resident=round(running.peak, 1),
                server_cpu_ms=round(1000 * (fleet.server_cpu() - server) / nodes, 2),
                **_requests(log, nodes),
                bytes_from_server=round((fleet.bytes_from_server() - received) / nodes),
                bytes_to_server=round((fleet.bytes_to_server() - sent) / nodes),
            )
    progress(
        f"{program.name}: every node listed after {figures.listed} s, every record out after"
        f" {figures.exported} s"
    )
    return figures


def _is_done(fleet: SimulatedFleet, seen: Listing, program: Program) -> bool:
    """Whether every node is listed, labelled and delivered, and nothing has changed for a while."""
    fleet.reader.check()
    whole = (seen.listed, seen.delivered) if program.inventories else ()
    complete = all(len(one) == fleet.nodes for one in (seen.labelled, *whole))
    return complete and time.monotonic() - seen.changed > QUIET


def _last(seen: Listing, program: Program) -> float:
    return max((seen.listed if program.inventories else seen.labelled).values())


def _requests(log: audit.AuditLog, nodes: int) -> dict[str, float]:
    requests = log.requests()
    kinds: dict[str, Callable[[str], bool]] = {
        "requests": lambda _: True,
        "execs": audit.is_exec,
        "writes": audit.is_write,
    }
    return {
        name: round(sum(count for one, count in requests.items() if fits(one)) / nodes, 3)
        for name, fits in kinds.items()
    }


def wait(running: Running, done: Callable[[], bool], *, deadline: float = DEADLINE) -> float:
    """Wait until something is so; when it was. Raises BenchError if the program ends before."""
    until = time.monotonic() + deadline
    while not done():
        running.check()
        if time.monotonic() > until:
            raise BenchError(f"not done after {deadline:.0f} s; the log is {running.log}")
        time.sleep(0.1)
    return time.monotonic()


def exec_floor(fleet: SimulatedFleet, name: str, *, workers: int) -> Figures:
    """An exec in every pod, and nothing else: the least that any program does."""
    return _floor(fleet, name, workers=workers, writes=False)


def write_floor(fleet: SimulatedFleet) -> Figures:
    """The same with the writes of what the operator wrote, which are undone before."""
    return _floor(fleet, "exec and the writes alone", workers=int(LIMITS["WORKERS"]), writes=True)


def _floor(fleet: SimulatedFleet, name: str, *, workers: int, writes: bool) -> Figures:
    kubeconfig = str(fleet.cluster.kubeconfig)
    command = [*PYTHON, "-m", "tests.bench.floor", kubeconfig, f"--workers={workers}"]
    command.append(f"--server={fleet.server_pid}")
    done = subprocess.run(
        [*command, "--writes"] if writes else command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    return Figures(
        name=name,
        exported=round(found["wall"], 2),
        settled=round(found["settled"], 2) if writes else None,
        cpu_ms=round(1000 * found["cpu"] / fleet.nodes, 2),
        resident=round(found["resident"], 1),
        server_cpu_ms=round(1000 * found["server_cpu"] / fleet.nodes, 2),
        execs=1,
        writes=found["writes"] / fleet.nodes if writes else 0,
    )
