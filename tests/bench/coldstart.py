"""Cold start: from nothing known to every node read, written and exported; `make bench`.

Prints wall time, CPU per node, resident memory and API writes per node of the operator, beside the
floors (tests/bench/floor.py) on the same cluster, and beside another program given with --peer. The
first floor, which the ratios are of, is execs alone, measured before and after; the second has the
writes, too. The wall time ends with the last record of the last node; until then each inventory is
written, too, since records come from there. CPU and writes are those until everything is noted as
delivered, which is the last column. The ratios are what to quote: these machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.support.quarantines import QUARANTINES, manifest

NODE_OBJECT_BYTES = 25_000
GPUS = 8
LOAD = {"WORKERS": "16", "QPS": "500", "BURST": "1000"}
WRITES = ("POST", "PUT", "PATCH", "DELETE", "APPLY")
DEADLINE = 1800.0
QUIET_WITHIN = 600.0


@dataclass
class Figures:
    """The measured costs of one program."""

    name: str
    wall: float
    """Seconds until every record is exported."""
    cpu: float
    resident: float
    writes: float | None = None
    settled: float | None = None
    """Seconds until all work is done."""

    def row(self, nodes: int, floor: Figures) -> list[str]:
        return [
            self.name,
            f"{self.wall:.1f} s",
            f"{self.wall / floor.wall:.2f}",
            f"{1000 * self.cpu / nodes:.2f} ms",
            f"{self.cpu / floor.cpu:.2f}",
            f"{self.resident:.0f} MB",
            "" if self.writes is None else f"{self.writes / nodes:.2f}",
            "" if self.settled is None else f"{self.settled:.1f} s",
        ]


def measure_floor(cluster: LocalCluster) -> Figures:
    found = run_floor(cluster)
    return Figures("floor", found["wall"], found["cpu"], found["resident"])


def measure_writes(cluster: LocalCluster) -> Figures:
    """The floor with the writes of what the operator has found; the cluster is left as after it."""
    found = run_floor(cluster, "--writes")
    return Figures(
        "exec and the writes alone",
        found["wall"],
        found["cpu"],
        found["resident"],
        found["writes"],
        found["settled"],
    )


def run_floor(cluster: LocalCluster, *options: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.floor", str(cluster.kubeconfig), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def measure(
    name: str, command: list[str], cluster: LocalCluster, *, records: int, done: Callable[[], bool]
) -> Figures:
    """Run a program until it has exported all records and then `done` agrees, and end it."""
    log = cluster.directory / f"{name}.log"
    command, access = as_in_a_pod(command, cluster)
    environment = {
        **os.environ,
        **LOAD,
        **access,
        "CLUSTER_NAME": "bench",
        "SERVER_PORT": "18089",
        "LOG_LEVEL": "info",
    }
    before = api_writes(cluster)
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        )

    def wait(until: Callable[[], bool]) -> float:
        while not until():
            if process.poll() is not None:
                sys.exit(f"{name} ended with exit code {process.returncode}; see {log}")
            if time.monotonic() - began > DEADLINE:
                sys.exit(f"{name} did not finish within {DEADLINE:.0f} s; see {log}")
            time.sleep(0.25)
        return time.monotonic() - began

    try:
        wall = wait(lambda: count_records(log) >= records)
        settled = wait(done)
        cpu, resident = usage(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    return Figures(name, wall, cpu, resident, api_writes(cluster) - before, settled)


def as_in_a_pod(command: list[str], cluster: LocalCluster) -> tuple[list[str], dict[str, str]]:
    """The command and environment by which a program finds the cluster as a pod would.

    That is how programs run: reading a kubeconfig costs each of them what no pod pays. A mount
    namespace of its own shows it the service account's files; without root it gets a kubeconfig.
    """
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return command, {"KUBECONFIG": str(cluster.kubeconfig)}
    files = cluster.directory / "serviceaccount"
    files.mkdir(exist_ok=True)
    (files / "token").write_text(cluster.token)
    (files / "ca.crt").write_bytes(cluster.ca_file.read_bytes())
    (files / "namespace").write_text("gpuid")
    address = urlsplit(cluster.server)
    mount = (
        "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount"
        f" && cp {files}/* /run/secrets/kubernetes.io/serviceaccount/"
        ' && exec "$@"'
    )
    wrapped = ["unshare", "--mount", "sh", "-c", mount, "sh", *command]
    return wrapped, {
        "KUBERNETES_SERVICE_HOST": str(address.hostname),
        "KUBERNETES_SERVICE_PORT": str(address.port),
    }


def wait_until_quiet(cluster: LocalCluster) -> None:
    """Wait until the controllers have handled the new nodes, so that their work is not measured."""
    before, until = None, time.monotonic() + QUIET_WITHIN
    while before != (now := node_versions(cluster)):
        if time.monotonic() > until:
            sys.exit(f"the nodes still change {QUIET_WITHIN:.0f} s after their creation")
        before = now
        time.sleep(5.0)


def create_quarantines(cluster: LocalCluster, count: int) -> None:
    """Create quarantines of parts that no node has: a fleet has few that match."""
    cluster.client.send_all(
        Request(
            "POST",
            QUARANTINES,
            manifest(
                f"rma-{number}", {"serial": f"of-no-node-{number}"}, {"uuid": f"GPU-{number}"}
            ),
        )
        for number in range(count)
    )


def node_versions(cluster: LocalCluster) -> str:
    versions = "jsonpath={.items[*].metadata.resourceVersion}"
    return cluster.kubectl("get", "nodes", "-o", versions).stdout


def count_records(log: Path) -> int:
    return log.read_bytes().count(b"gpu serial number reading")


def usage(pid: int) -> tuple[float, float]:
    """CPU seconds of a process so far, and the most memory it ever had, in MB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return cpu, int(peak[1]) / 1024 if peak else 0.0


def api_writes(cluster: LocalCluster) -> int:
    """Writes of inventories, nodes and Events that the API server has answered so far."""
    text = cluster.kubectl("get", "--raw", "/metrics").stdout
    total = 0.0
    for line in text.splitlines():
        if not line.startswith("apiserver_request_total{"):
            continue
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        kind = (labels.get("resource"), labels.get("subresource"))
        # The status of nodes is the simulation's affair.
        counts = kind[0] in ("gpuinventories", "nodes", "events") and kind != ("nodes", "status")
        if labels.get("verb") in WRITES and counts:
            total += float(line.rsplit(" ", 1)[1])
    return int(total)


def delivered(cluster: LocalCluster, nodes: int) -> bool:
    """Whether every inventory is ready and everything is noted as delivered."""
    done = cluster.kubectl(
        "get",
        "gpuinventories",
        "-o",
        'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}'
        '{.status.conditions[?(@.type=="Delivered")].status} {end}',
    )
    return done.stdout.split().count("TrueTrue") == nodes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--quarantines", type=int, default=0, help="quarantines of other parts")
    parser.add_argument("--peer", help="another program to measure, such as gpuid")
    options = parser.parse_args()
    nodes: int = options.nodes
    directory = Path(tempfile.mkdtemp(prefix="gpuid-bench-"))
    cluster = LocalCluster.up(
        directory, nodes=nodes, node_object_bytes=NODE_OBJECT_BYTES, progress=print
    )
    try:
        create_quarantines(cluster, options.quarantines)
        wait_until_quiet(cluster)
        floors = [measure_floor(cluster)]
        print(f"floor before: {floors[0].wall:.1f} s")
        program = [sys.executable, "-m", "gpuid_operator", "run"]
        ours = measure(
            "gpuid-operator",
            program,
            cluster,
            records=nodes * GPUS,
            done=lambda: delivered(cluster, nodes),
        )
        rows = [measure_writes(cluster), ours]
        floors.append(measure_floor(cluster))
        print(f"floor after: {floors[1].wall:.1f} s")
        if options.peer:
            rows.append(
                measure("peer", [options.peer], cluster, records=nodes * GPUS, done=lambda: True)
            )
        floor = Figures(
            "floor (mean of two)",
            sum(item.wall for item in floors) / 2,
            sum(item.cpu for item in floors) / 2,
            max(item.resident for item in floors),
        )
        table = Table(title=f"cold start, {nodes} nodes, {GPUS} GPUs each; {LOAD}")
        for title in (
            "",
            "wall",
            "x floor",
            "CPU per node",
            "x floor",
            "resident",
            "writes",
            "settled",
        ):
            table.add_column(title, justify="right" if title else "left")
        for item in (floor, *rows):
            table.add_row(*item.row(nodes, floor))
        Console(width=110).print(table)
    finally:
        cluster.down()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
