"""The operator is killed at each of its writes, and what comes of it is as if it never was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.support.gate import Gate, Position
from tests.support.operators import (
    POLICIES,
    Operator,
    condition,
    eventually,
    inventory,
    node_labels,
    status,
    types,
)
from tests.support.smi_fixtures import lost, machine, serials, swapped

# The same machine under each node name: what is compared then needs no translation.
FIRST = machine("gpu-crash")
SWAPPED = swapped(FIRST, 1, "gpu-spare")
LOST = lost(SWAPPED, 0)
EVERY_CHANGE = {
    "name": "log",
    "stdout": {},
    "records": "changes",
    "batch": {"maxWait": "0s"},
}


@dataclass(frozen=True)
class Step:
    """One thing that happens to a node."""

    does: Callable[[LocalCluster, str], object]
    history: list[str]
    """The types of all entries since the node came, once it is through."""


def appears(fleet: LocalCluster, node: str) -> None:
    fleet.add_node(node, xml=FIRST, provider_id="aws:///us-east-1a/i-crash")


def gets(xml: str) -> Callable[[LocalCluster, str], None]:
    def change(fleet: LocalCluster, node: str) -> None:
        fleet.write_smi(node, xml)
        fleet.restart_plugin(node)

    return change


def leaves(fleet: LocalCluster, node: str) -> None:
    fleet.delete_node(node)


ADDED = ["GPUAdded", "GPUAdded", "Sighted"]
REPLACED = [*ADDED, "GPURemoved", "GPUAdded", "Sighted"]
FAILED = [*REPLACED, "GPULost", "Sighted"]
LEFT = [kind for kind in FAILED if kind not in ("Sighted", "GPULost")]
SCENARIO = [
    Step(appears, ADDED),
    Step(gets(SWAPPED), REPLACED),
    Step(gets(LOST), FAILED),
    Step(leaves, [*LEFT, "GPURemoved", "GPURemoved", "NodeDeparted"]),
]


@pytest.fixture(scope="module")
def gate(fleet: LocalCluster) -> Iterator[Gate]:
    policy = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventoryPolicy",
        "metadata": {"name": "log"},
        "spec": {"sinks": [EVERY_CHANGE]},
    }
    fleet.client.send(Request("POST", POLICIES, policy))
    with Gate(fleet) as gate:
        yield gate


def picture(fleet: LocalCluster, node: str) -> dict[str, Any]:
    """All that must not depend on when the operator was killed."""
    body = inventory(fleet, node)
    found = body["status"]
    kept = ("state", "sequence", "gpus", "gpuCount", "serials", "product", "driverVersion")
    return {
        **{key: found.get(key) for key in kept},
        "history": [
            {key: entry.get(key) for key in ("sequence", "type", "uuid", "serial", "from", "to")}
            for entry in found["history"]
        ],
        "sinks": [
            (sink["name"], sink["deliveredSequence"], sink["pending"]) for sink in found["sinks"]
        ],
        "conditions": {one["type"]: (one["status"], one["reason"]) for one in found["conditions"]},
        "labels": body["metadata"]["labels"],
        "spec": body["spec"],
    }


def settled(fleet: LocalCluster, node: str, step: Step) -> None:
    """The step is in the inventory, in its labels, in those of the Node, and at the sink."""
    found = status(fleet, node)
    assert types(found.get("history", ())) == step.history
    assert [sink["pending"] for sink in found["sinks"]] == [0]
    assert condition(fleet, node, "Delivered") == ("True", "Delivered")
    labels = inventory(fleet, node)["metadata"]["labels"]
    shown = {key for key, value in labels.items() if value == "present"}
    departed = found["state"] == "Departed"
    wanted = set() if departed else {f"serial.gpuid.github.com/{one}" for one in found["serials"]}
    assert {key for key in shown if key.startswith("serial.")} == wanted
    if not departed:
        assert sorted(node_labels(fleet, node).values()) == found["serials"]


def test_a_kill_at_any_write_leaves_no_trace(fleet: LocalCluster, gate: Gate) -> None:
    with Operator(fleet, kubeconfig=gate.kubeconfig) as operator:
        eventually(lambda: is_watched(gate))
        counts, pictures = undisturbed(fleet, gate)
        assert all(count >= 3 for count in counts), counts
        # A write that met another's is made again, and what a policy's status counts is gathered:
        # a step takes a write more at one time than at another. Each must be struck that came.
        least = list(counts)
        kills: Counter[tuple[Position, int]] = Counter()
        for position in (Position.BEFORE, Position.AFTER):
            for skip in range(max(counts)):
                node = f"gpu-crash-{position.name.lower()}-{skip}"
                for number, (step, expected) in enumerate(zip(SCENARIO, pictures, strict=True)):
                    struck, came = kill_at(gate, operator, skip, position, fleet, node, step)
                    if struck:
                        kills[position, number] += 1
                    else:
                        least[number] = min(least[number], came)
                    eventually(lambda node=node, step=step: settled(fleet, node, step))
                    assert picture(fleet, node) == expected, struck
                    eventually(lambda: is_quiet(gate))
                check_records(operator, fleet, node)
        assert all(count >= 3 for count in least), least
        for position in (Position.BEFORE, Position.AFTER):
            assert all(kills[position, number] >= count for number, count in enumerate(least))


def test_what_goes_between_the_first_look_and_the_watch_is_noticed(
    fleet: LocalCluster, gate: Gate
) -> None:
    node = "gpu-crash-gap"
    with Operator(fleet, kubeconfig=gate.kubeconfig, periods={"catch_up": 4.0}) as operator:
        appears(fleet, node)
        eventually(lambda: settled(fleet, node, SCENARIO[0]))
        operator.kill()
        gate.refuses = lambda head: "" if "User-Agent: kopf/" in head else None
        operator.restart()
        fleet.delete_node(node)
        eventually(lambda: was_refused(gate))
        gate.refuses = lambda _: None

        def departed() -> None:
            assert status(fleet, node)["state"] == "Departed"

        eventually(departed)


def was_refused(gate: Gate) -> None:
    assert gate.asked


def is_quiet(gate: Gate) -> None:
    assert gate.is_quiet


def undisturbed(fleet: LocalCluster, gate: Gate) -> tuple[list[int], list[dict[str, Any]]]:
    """How many writes each step takes, and what it leads to."""
    node = "gpu-crash-none"
    counts, pictures = [], []
    for step in SCENARIO:
        before = len(gate.writes)
        step.does(fleet, node)
        eventually(lambda step=step: settled(fleet, node, step))
        eventually(lambda: is_quiet(gate))
        counts.append(len(gate.writes) - before)
        pictures.append(picture(fleet, node))
    assert pictures[-1]["serials"] == sorted(serials(LOST))
    return counts, pictures


def kill_at(
    gate: Gate,
    operator: Operator,
    skip: int,
    position: Position,
    fleet: LocalCluster,
    node: str,
    step: Step,
) -> tuple[str, int]:
    """Let the step happen and kill the operator at one of its writes; which one it was, empty where
    the step was through with fewer, and how many came before it."""
    ambush = gate.lay(skip, position, operator.kill)
    step.does(fleet, node)

    def struck_or_through() -> None:
        if not ambush.struck.is_set():
            settled(fleet, node, step)
            is_quiet(gate)

    eventually(struck_or_through)
    gate.lift()
    if not ambush.what:
        return "", skip - ambush.skip
    assert ambush.struck.wait(30), f"the kill at {ambush.what} did not come"
    operator.restart()
    eventually(lambda: is_watched(gate))
    return f"{position.name} {ambush.what}", skip


def is_watched(gate: Gate) -> None:
    """Pods, inventories and policies: from then on every event is told."""
    assert gate.watches == 3


def check_records(operator: Operator, fleet: LocalCluster, node: str) -> None:
    """Each entry came to the sink, in order, under one id and with one content."""
    records = [one for one in operator.records() if one["node"] == node]
    contents: dict[str, dict[str, Any]] = {}
    for record in records:
        assert contents.setdefault(record["id"], record) == record
    uid = inventory(fleet, node)["metadata"]["uid"]
    numbers = [int(one.split(".")[1]) for one in contents]
    assert {one.split(".")[0] for one in contents} == {uid}
    assert numbers == sorted(set(numbers))
    said = [one["event"] for one in contents.values()]
    assert [kind for kind in said if kind != "GPULost"] == SCENARIO[-1].history
    assert said.count("GPULost") == 1
