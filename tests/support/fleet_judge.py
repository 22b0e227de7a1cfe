"""Judges what an engine made of a script: by the script itself, and by another run of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.clock import JumpingLoop
from tests.support.fleet_run import FleetRun, Step
from tests.support.kube import FakeKube
from tests.support.moving_gpus import changes
from tests.support.objects import inventory_path, node_path


def run(
    seed: int,
    steps: list[Step],
    *,
    faults: bool,
    meanwhile: Callable[[], int] = lambda: 0,
    quarantines: Mapping[str, Mapping[str, Any]] | None = None,
) -> FleetRun:
    """Play the script in a loop of its own; `meanwhile` and `quarantines` are those of FleetRun."""
    random.seed(seed)  # of the jitter, so that a seed repeats the whole run

    async def play() -> FleetRun:
        played = FleetRun(
            FakeKube(),
            random.Random(seed),
            faults=faults,
            meanwhile=meanwhile,
            quarantines=quarantines or {},
        )
        await played.play(steps)
        return played

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(play())


def judge(steps: list[Step], played: FleetRun) -> None:
    """What was sent in each step is what changed between the machines, no more and no less."""
    before: dict[str, Any] = {}
    seen: set[str] = set()
    for number, step in enumerate(steps):
        for node, here in step.fleet.items():
            expected = changes(before.get(node), here, returns=node in seen)
            assert played.said[number][node] == expected, f"step {number}, {node}"
            if here is not None:
                seen.add(node)
        before = step.fleet


def essence(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """A record without its time, its number and the pod from which it came."""
    kept = sorted(record.items() - {(name, record.get(name)) for name in ("id", "sequence")})
    return tuple(item for item in kept if item[0] not in ("time", "source"))


def remains(played: FleetRun, node: str) -> dict[str, Any]:
    """Facts and labels at the end, without what names a pod, a time or a number."""
    kube, status = played.kube, played.status(node)
    kept = [
        "state",
        "gpus",
        "serials",
        "chassis",
        "gpuCount",
        "product",
        "driverVersion",
        "cudaVersion",
        "policy",
    ]
    body = kube.objects.get(inventory_path(node), {"metadata": {}})
    found = {name: status.get(name) for name in kept}
    found["labels"] = body["metadata"].get("labels")
    on_node = kube.objects.get(node_path(node), {"metadata": {}, "spec": {}})
    found["node labels"] = on_node["metadata"].get("labels")
    found["taints"] = on_node["spec"].get("taints")
    found["conditions"] = [
        (one["type"], one["status"], one["reason"], one["message"])
        for one in status.get("conditions", ())
    ]
    return found


def history_is_sent(played: FleetRun, node: str) -> bool:
    """Whether each entry that history holds was sent to one of the sinks."""
    sent = {
        (record["sequence"], record["event"])
        for record in played.harness.records
        if record["node"] == node
    }
    history = played.status(node).get("history", ())
    return {(entry["sequence"], entry["type"]) for entry in history} <= sent
