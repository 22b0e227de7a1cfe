"""Scenarios on a fleet that the operator knows: everything is read, delivered and written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from gpuid_operator.localcluster.client import MERGE, Request
from tests.bench import audit, histories
from tests.bench.api import INVENTORIES
from tests.bench.coldstart import cold_start, wait
from tests.bench.programs import LIMITS, OURS, PYTHON, Program, Running
from tests.bench.simulated_fleet import Progress, SimulatedFleet

_APPLY: Final = "application/apply-patch+yaml"
_MANAGER: Final = "fieldManager=gpuid-operator&force=true"
_PAGE: Final = 200
_CALM: Final = 0.03
"""Share of a core below which an operator has nothing to do."""
_CALM_FOR: Final = 3.0
_ROUND_ENDS: Final = 5.0
"""Seconds until the writes of a round of reads are done."""
LEASE: Final = "leases"
RESYNCS: Final = 3


def make_known(fleet: SimulatedFleet, progress: Progress) -> None:
    """Let the operator read everything, and fill the histories."""
    cold_start(fleet, OURS, LIMITS, progress)
    fill(fleet, progress)


def fill(fleet: SimulatedFleet, progress: Progress) -> None:
    """Fill the histories of all inventories."""
    began = time.monotonic()
    fleet.cluster.client.send_all(_filled(fleet))
    progress(f"the histories are full after {time.monotonic() - began:.0f} s")


def _filled(fleet: SimulatedFleet) -> Iterator[Request]:
    """The writes that fill the histories, as the operator would have made them."""
    token = ""
    while True:
        page = fleet.reader.get(f"{INVENTORIES}?limit={_PAGE}&continue={token}")
        for body in page["items"]:
            path = f"{INVENTORIES}/{body['metadata']['name']}"
            head = {key: body[key] for key in ("apiVersion", "kind")}
            status = histories.full(body["status"])
            whole = {**head, "metadata": {"name": body["metadata"]["name"]}, "status": status}
            yield Request("PATCH", f"{path}/status?{_MANAGER}", whole, content_type=_APPLY)
            labels = {"metadata": {"labels": histories.labels(status)}}
            yield Request("PATCH", path, labels, content_type=MERGE)
        token = page["metadata"].get("continue", "")
        if not token:
            return


def restart(fleet: SimulatedFleet, progress: Progress) -> dict[str, Any]:
    """A restart with everything known: when it is ready, and whether it reads or writes anything.

    The operator runs at its own defaults.
    """
    log = fleet.audit_log()
    received, server = fleet.bytes_from_server(), fleet.server_cpu()
    began = time.monotonic()
    with fleet.start(OURS, {}) as running:
        ready = wait(running, lambda: running.get("/readyz")[0] == 200) - began
        wait_until_calm(running)
        requests = log.requests()
        return {
            "nodes": fleet.nodes,
            "ready_s": round(ready, 2),
            "execs": _count(requests, audit.is_exec),
            "writes": _count(requests, audit.is_write),
            "records": running.records(),
            "requests": requests.total(),
            "cpu_s": round(running.cpu, 2),
            "resident": round(running.peak, 1),
            "server_cpu_s": round(fleet.server_cpu() - server, 2),
            "bytes_from_server": fleet.bytes_from_server() - received,
        }


def idle(fleet: SimulatedFleet, progress: Progress, *, seconds: float) -> dict[str, Any]:
    """An idle fleet, with the lease that an operator in a cluster holds.

    The time without a re-sync shows what the watches cost; `resync` has the rest.
    """
    with fleet.start(OURS, {"LEADER_ELECTION": "true"}) as running:
        wait(running, lambda: running.get("/readyz")[0] == 200)
        wait_until_calm(running)
        progress(f"idle for {seconds:.0f} s")
        log = fleet.audit_log()
        used, server, began = running.cpu, fleet.server_cpu(), time.monotonic()
        received = fleet.bytes_from_server()
        time.sleep(seconds)
        running.check()
        took = time.monotonic() - began
        requests = log.requests()
        leases = audit.of_resource(requests, LEASE)
        changes = {one: n for one, n in requests.items() if audit.is_write(one)}
        return {
            "nodes": fleet.nodes,
            "idle_seconds": round(took),
            "core_percent": round(100 * (running.cpu - used) / took, 3),
            "server_core_percent": round(100 * (fleet.server_cpu() - server) / took, 3),
            "requests_per_hour": round(3600 * (requests.total() - leases) / took),
            "lease_requests_per_hour": round(3600 * leases / took),
            "writes_besides_lease": sum(changes.values())
            - sum(n for one, n in changes.items() if one.endswith(f" {LEASE}")),
            "bytes_from_server_per_hour": round(
                3600 * (fleet.bytes_from_server() - received) / took
            ),
        }


def reads(fleet: SimulatedFleet, progress: Progress) -> dict[str, Any]:
    """Reads that are due, of nodes that have not changed: costs per read.

    The read interval is short, so the first round is due at once; the second one is measured.
    """
    interval = max(30, fleet.nodes // 10)
    with fleet.start(OURS, {"RESYNC": f"{interval}s"}) as running:
        log = fleet.audit_log()

        def count() -> int:
            return _count(log.requests(), audit.is_exec)

        wait(running, lambda: count() >= fleet.nodes)
        time.sleep(_ROUND_ENDS)
        progress(f"every node is read every {interval} s")
        log.restart()
        used, server = running.cpu, fleet.server_cpu()
        sent, received = fleet.bytes_to_server(), fleet.bytes_from_server()
        wait(running, lambda: count() >= fleet.nodes)
        requests = log.requests()
        times = _count(requests, audit.is_exec)
        return {
            "nodes": fleet.nodes,
            "interval_s": interval,
            "reads": times,
            "requests": round(requests.total() / times, 2),
            "writes": round(_count(requests, audit.is_write) / times, 2),
            "records": running.records(),
            "cpu_ms": round(1000 * (running.cpu - used) / times, 2),
            "server_cpu_ms": round(1000 * (fleet.server_cpu() - server) / times, 2),
            "bytes_from_server": round((fleet.bytes_from_server() - received) / times),
            "bytes_to_server": round((fleet.bytes_to_server() - sent) / times),
        }


def resync(fleet: SimulatedFleet, progress: Progress) -> dict[str, Any]:
    """Full lists of the cluster, more often than every ten minutes."""
    period = max(15.0, fleet.nodes / 50)
    command = (*PYTHON, "-m", "tests.bench.instrumented", str(period))
    program = Program("gpuid-operator-resync", command, inventories=True)
    with fleet.start(program, {}) as running:
        wait(running, lambda: running.get("/readyz")[0] == 200)
        wait_until_calm(running)
        log = fleet.audit_log()
        position = running.log.stat().st_size
        used, server = running.cpu, fleet.server_cpu()
        received = fleet.bytes_from_server()

        def count() -> int:
            return log.requests()["list gpuinventorypolicies"]

        wait(running, lambda: count() >= RESYNCS)
        wait_until_calm(running)
        times = count()
        requests = log.requests()
        progress(f"{times} re-syncs, one every {period:.0f} s")
        return {
            "nodes": fleet.nodes,
            "resyncs": times,
            "requests": round(requests.total() / times, 1),
            "writes": _count(requests, audit.is_write),
            "execs": _count(requests, audit.is_exec),
            "bytes_from_server": round((fleet.bytes_from_server() - received) / times),
            "cpu_ms": round(1000 * (running.cpu - used) / times),
            "server_cpu_ms": round(1000 * (fleet.server_cpu() - server) / times),
            "resident": round(running.peak, 1),
            **holds(running.log, position),
        }


def holds(log: Path, position: int) -> dict[str, float]:
    """The longest times for which the loop did nothing else, after a position in the log.

    `hold_ms` is by the clock, `hold_cpu_ms` by the CPU time of the loop's thread, which waits for a
    core on a busy machine. The two maxima may be of two holds.
    """
    longest = {"hold_ms": 0.0, "hold_cpu_ms": 0.0}
    with log.open("rb") as file:
        file.seek(position)
        for line in file:
            if b"loop held" in line and line.endswith(b"\n"):
                found = json.loads(line)
                for key in longest:
                    longest[key] = max(longest[key], found[key])
    return longest


def wait_until_calm(running: Running) -> None:
    """Wait until an operator has nothing to do any more."""
    used, at = running.cpu, time.monotonic()

    def calm() -> bool:
        nonlocal used, at
        now = time.monotonic()
        if now - at < _CALM_FOR:
            return False
        share = (running.cpu - used) / (now - at)
        used, at = running.cpu, now
        return share < _CALM

    wait(running, calm)


def _count(requests: Any, fits: Callable[[str], bool]) -> int:
    return sum(count for one, count in requests.items() if fits(one))
