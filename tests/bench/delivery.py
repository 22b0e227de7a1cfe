"""Batches of deliveries: a whole fleet's first reads to PostgreSQL and S3; `make bench-sinks`.

Prints in how many transactions the rows of all GPUs reached a table, and in how many objects a
bucket: a sink is to see a fleet, not a thousand nodes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench import results
from tests.bench.coldstart import wait
from tests.bench.errors import BenchError
from tests.bench.listing import listing
from tests.bench.programs import LIMITS, OURS
from tests.bench.simulated_fleet import GPUS, SimulatedFleet
from tests.support.object_servers import run_s3
from tests.support.servers import run_postgres
from tests.support.sink_servers import Bucket, Database, policy, warehouse_credentials


def measure(fleet: SimulatedFleet, database: Database) -> dict[str, Any]:
    """Run the operator until all records are noted as delivered; what that took."""
    nodes = fleet.nodes

    def stored() -> bool:
        count = "SELECT count(*) FROM serials"
        return database.exists() and database.query(count)[0]["count"] == nodes * GPUS

    began = time.monotonic()
    with listing(fleet.reader) as seen, fleet.start(OURS, LIMITS) as running:
        took = wait(running, lambda: len(seen.delivered) == nodes and stored()) - began
        return {
            "nodes": nodes,
            "gpus": GPUS,
            "delivered_s": round(took, 1),
            "cpu_ms": round(1000 * running.cpu / nodes, 1),
            "resident": round(running.peak, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    nodes: int = parser.parse_args().nodes
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpuid-bench-")))
        database = Database(stack.enter_context(run_postgres()), "bench")
        bucket = Bucket(stack.enter_context(run_s3(folder)), "bench")
        fleet = stack.enter_context(SimulatedFleet.up(nodes, progress=print))
        warehouse_credentials(fleet.cluster, database)
        bucket.credentials(fleet.cluster)
        # Batches as they are where nobody says otherwise: 500 records, 1 s.
        sinks = [database.sink(sslMode="disable"), bucket.sink(format="csv")]
        for sink in sinks:
            del sink["batch"]
        policy(fleet.cluster, "bench", sinks)
        took = measure(fleet, database)
        (rows,) = database.query(
            "SELECT count(*) AS rows, count(DISTINCT xmin::text) AS transactions,"
            " count(DISTINCT record_id) AS ids FROM serials"
        )
        lines = sum(content.count(b"\n") for content in bucket.objects.values())
        expected = nodes * GPUS
        assert rows["rows"] == rows["ids"] == expected, rows
        assert lines == expected, lines
        figures = {
            **took,
            "records": expected,
            "transactions": rows["transactions"],
            "objects": len(bucket.objects),
        }
        results.report("sinks", figures, seconds=time.monotonic() - began)


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"failed to measure: {error}")
