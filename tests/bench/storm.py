"""Every plugin restarted at once: whether a node starves, and what others feel of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from gpuid_operator.localcluster.client import Request
from tests.bench.api import INVENTORIES, METADATA
from tests.bench.coldstart import wait
from tests.bench.helpers import Helper
from tests.bench.known import wait_until_calm
from tests.bench.programs import OURS
from tests.bench.restarts import PODS, restart
from tests.bench.simulated_fleet import Progress, SimulatedFleet, service_account
from tests.bench.stats import summary

IDLE_SECONDS: Final = 20.0
_PAGE: Final = 500


def storm(fleet: SimulatedFleet, progress: Progress) -> dict[str, Any]:
    """A bystander's GETs on an idle cluster, while all plugins restart, and while the operator
    reads all nodes for that reason, at its own defaults."""
    cluster = fleet.cluster
    token = service_account(cluster, "default", "bystander")
    with Helper("bystander", cluster.server, str(cluster.ca_file), token) as bystander:
        time.sleep(2.0)  # its first GETs open the connection
        bystander.ask("start")
        time.sleep(IDLE_SECONDS)
        idle = bystander.ask("stop")
        progress("all plugins restart, without the operator")
        requests = list(_restarts(fleet))
        bystander.ask("start")
        cluster.client.send_all(requests)
        alone = bystander.ask("stop")
        with fleet.start(OURS, {}) as running:
            wait(running, lambda: running.get("/readyz")[0] == 200)
            # It reads what was restarted while it did not run.
            wait_until_calm(running)
            progress("all plugins restart, with the operator")
            requests = list(_restarts(fleet))
            with _first_changes(fleet) as changed:
                bystander.ask("start")
                began = time.monotonic()
                sender = threading.Thread(target=cluster.client.send_all, args=(requests,))
                sender.start()

                def complete() -> bool:
                    fleet.reader.check()
                    return len(changed) == fleet.nodes

                wait(running, complete)
                sender.join()
                busy = bystander.ask("stop")
            took = [at - began for at in changed.values()]
    groups = {"idle": idle, "restarts": alone, "operator": busy}
    return {
        "nodes": fleet.nodes,
        "bystander": {
            name: {**summary(found["seconds"]), "failed": found["failed"]}
            for name, found in groups.items()
        },
        "reads": summary(took),
        "nodes_read": len(changed),
    }


def _restarts(fleet: SimulatedFleet) -> Iterator[Request]:
    token = ""
    while True:
        page = fleet.reader.get(f"{PODS}?limit={_PAGE}&continue={token}")
        yield from map(restart, page["items"])
        token = page["metadata"].get("continue", "")
        if not token:
            return


@contextmanager
def _first_changes(fleet: SimulatedFleet) -> Iterator[dict[str, float]]:
    """When each inventory changed first: a read of a new container changes it."""
    seen: dict[str, float] = {}

    def handle(event: dict[str, Any]) -> None:
        seen.setdefault(event["object"]["metadata"]["name"], time.monotonic())

    since = fleet.reader.version(INVENTORIES)
    watch = fleet.reader.watch(INVENTORIES, since=since, accept=METADATA, handle=handle)
    try:
        yield seen
    finally:
        watch.stop()
