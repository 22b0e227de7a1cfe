"""Batches of deliveries: a whole fleet's first reads to PostgreSQL and S3; `make bench-sinks`.

Prints in how many transactions the rows of all GPUs reached a table, and in how many objects a
bucket: a sink is to see a fleet, not a thousand nodes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gpuid_operator.localcluster import LocalCluster
from tests.bench.coldstart import DEADLINE, GPUS, LOAD, Figures, delivered, usage
from tests.support.object_servers import run_s3
from tests.support.servers import run_postgres
from tests.support.sink_servers import NAMESPACE, Bucket, Database, policy, warehouse_credentials


def measure(cluster: LocalCluster, database: Database, nodes: int) -> Figures:
    """The operator from its start until every node's records are noted as delivered."""
    # Rows are cheap to count; the fleet's objects are not, and are looked at when rows are there.
    count = "SELECT count(*) FROM serials"
    log = cluster.directory / "operator.log"
    environment = {
        **os.environ,
        **LOAD,
        "KUBECONFIG": str(cluster.kubeconfig),
        "POD_NAMESPACE": NAMESPACE,
        "CLUSTER_NAME": "bench",
        "SERVER_PORT": "18089",
    }
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpuid_operator", "run"], env=environment, stdout=output
        )
    try:
        while not (
            database.exists()
            and database.query(count)[0]["count"] == nodes * GPUS
            and delivered(cluster, nodes)
        ):
            if process.poll() is not None:
                sys.exit(f"the operator ended with exit code {process.returncode}; see {log}")
            if time.monotonic() - began > DEADLINE:
                sys.exit(f"not delivered after {DEADLINE:.0f} s; see {log}")
            time.sleep(1.0)
        wall = time.monotonic() - began
        return Figures("operator", wall, *usage(process.pid))
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    nodes: int = parser.parse_args().nodes
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="gpuid-bench-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        folder = directory / "buckets"
        folder.mkdir()
        database = Database(stack.enter_context(run_postgres()), "bench")
        bucket = Bucket(stack.enter_context(run_s3(folder)), "bench")
        cluster = LocalCluster.up(directory / "cluster", nodes=nodes, progress=print)
        stack.callback(cluster.down)
        warehouse_credentials(cluster, database)
        bucket.credentials(cluster)
        # Batches as they are where nobody says otherwise: 500 records, 1 s.
        sinks = [database.sink(sslMode="disable"), bucket.sink(format="csv")]
        for sink in sinks:
            del sink["batch"]
        policy(cluster, "bench", sinks)
        took = measure(cluster, database, nodes)
        (rows,) = database.query(
            "SELECT count(*) AS rows, count(DISTINCT xmin::text) AS transactions,"
            " count(DISTINCT record_id) AS ids FROM serials"
        )
        lines = sum(content.count(b"\n") for content in bucket.objects.values())
        expected = nodes * GPUS
        assert rows["rows"] == rows["ids"] == expected, rows
        assert lines == expected, lines
        table = Table(
            title=f"{nodes} nodes, {GPUS} GPUs each: {took.wall:.1f} s,"
            f" {1000 * took.cpu / nodes:.1f} ms of CPU per node, {took.resident:.0f} MB"
        )
        for title in ("sink", "records", "in", "records each"):
            table.add_column(title, justify="right" if title != "sink" else "left")
        for name, count, unit in (
            ("postgres", rows["transactions"], "transactions"),
            ("s3", len(bucket.objects), "objects"),
        ):
            table.add_row(name, str(expected), f"{count} {unit}", f"{expected / count:.0f}")
        Console().print(table)


if __name__ == "__main__":
    main()
