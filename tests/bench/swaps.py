"""A swapped GPU on an idle fleet: the time until users see it."""

from __future__ import annotations

import random
import threading
import time
from typing import Any, Final

from tests.bench.api import INVENTORIES
from tests.bench.coldstart import wait
from tests.bench.errors import BenchError
from tests.bench.known import wait_until_calm
from tests.bench.programs import OURS
from tests.bench.restarts import restart
from tests.bench.simulated_fleet import Progress, SimulatedFleet
from tests.bench.stats import summary
from tests.support.smi_fixtures import swapped, uuids

SWAPS: Final = 200
_WITHIN: Final = 60.0


def swaps(fleet: SimulatedFleet, progress: Progress, *, count: int = SWAPS) -> dict[str, Any]:
    """GPUs are swapped one after the other, each on a node chosen by chance.

    Each time is from the container's restart to the event of the inventory that has the new GPU.
    """
    chance = random.Random(count)
    names = fleet.cluster.node_names
    with fleet.start(OURS, {}) as running:
        wait(running, lambda: running.get("/readyz")[0] == 200)
        wait_until_calm(running)
        progress(f"{count} swaps")
        took = []
        for number in range(count):
            took.append(_swap(fleet, chance.choice(names), f"swap-{number}"))
            running.check()
            time.sleep(chance.uniform(0.05, 0.15))
    return {"nodes": fleet.nodes, **summary(took)}


def _swap(fleet: SimulatedFleet, node: str, seed: str) -> float:
    cluster = fleet.cluster
    pod = cluster.wait_plugin(node)
    xml = swapped(cluster.smi_file(node).read_text(), 0, seed)
    wanted = uuids(xml)[0]
    cluster.write_smi(node, xml)
    since = fleet.reader.version(INVENTORIES)
    seen = threading.Event()
    at = 0.0

    def handle(event: dict[str, Any]) -> None:
        nonlocal at
        gpus = event["object"]["status"].get("gpus", ())
        if not seen.is_set() and any(gpu.get("uuid") == wanted for gpu in gpus):
            at = time.monotonic()
            seen.set()

    path = f"{INVENTORIES}?fieldSelector=metadata.name%3D{node}"
    watch = fleet.reader.watch(path, since=since, accept="application/json", handle=handle)
    try:
        began = time.monotonic()
        cluster.client.send(restart(pod))
        if not seen.wait(_WITHIN):
            watch.check()
            raise BenchError(f"{node} has no {wanted} {_WITHIN:.0f} s after its restart")
        return at - began
    finally:
        watch.stop()
