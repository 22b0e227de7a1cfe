"""The operator is killed at each of its writes, and what comes of it is as if it never was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.support.api_fault_proxy import ApiFaultProxy, Position
from tests.support.crashes import is_quiet, is_watched, kill_at
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
def proxy(fleet: LocalCluster) -> Iterator[ApiFaultProxy]:
    policy = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventoryPolicy",
        "metadata": {"name": "log"},
        "spec": {"sinks": [EVERY_CHANGE]},
    }
    fleet.client.send(Request("POST", POLICIES, policy))
    with ApiFaultProxy(fleet) as proxy:
        yield proxy


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


def test_a_kill_at_any_write_leaves_no_trace(fleet: LocalCluster, proxy: ApiFaultProxy) -> None:
    with Operator(fleet, kubeconfig=proxy.kubeconfig) as operator:
        eventually(lambda: is_watched(proxy))
        counts, pictures = undisturbed(fleet, proxy)
        assert all(count >= 3 for count in counts), counts
        # A step takes one write more at some times: the operator repeats a write after a conflict,
        # and counts several changes in one write of a policy's status. Each trap whose write came
        # must be triggered.
        least = list(counts)
        kills: Counter[tuple[Position, int]] = Counter()
        for position in (Position.BEFORE, Position.AFTER):
            for skip in range(max(counts)):
                node = f"gpu-crash-{position.name.lower()}-{skip}"
                for number, (step, expected) in enumerate(zip(SCENARIO, pictures, strict=True)):
                    triggered, came = kill_at(
                        proxy,
                        operator,
                        skip,
                        position,
                        does=partial(step.does, fleet, node),
                        settled=partial(settled, fleet, node, step),
                    )
                    if triggered:
                        kills[position, number] += 1
                    else:
                        least[number] = min(least[number], came)
                    eventually(partial(settled, fleet, node, step))
                    assert picture(fleet, node) == expected, triggered
                    eventually(lambda: is_quiet(proxy))
                check_records(operator, fleet, node)
        assert all(count >= 3 for count in least), least
        for position in (Position.BEFORE, Position.AFTER):
            assert all(kills[position, number] >= count for number, count in enumerate(least))


def test_what_goes_between_the_first_look_and_the_watch_is_noticed(
    fleet: LocalCluster, proxy: ApiFaultProxy
) -> None:
    node = "gpu-crash-gap"
    with Operator(fleet, kubeconfig=proxy.kubeconfig, periods={"catch_up": 4.0}) as operator:
        appears(fleet, node)
        eventually(lambda: settled(fleet, node, SCENARIO[0]))
        operator.kill()
        proxy.refuses = lambda head: "" if "User-Agent: kopf/" in head else None
        operator.restart()
        fleet.delete_node(node)
        eventually(lambda: was_refused(proxy))
        proxy.refuses = lambda _: None

        def departed() -> None:
            assert status(fleet, node)["state"] == "Departed"

        eventually(departed)


def was_refused(proxy: ApiFaultProxy) -> None:
    assert proxy.refused


def undisturbed(
    fleet: LocalCluster, proxy: ApiFaultProxy
) -> tuple[list[int], list[dict[str, Any]]]:
    """How many writes each step takes, and what it leads to."""
    node = "gpu-crash-none"
    counts, pictures = [], []
    for step in SCENARIO:
        before = len(proxy.writes)
        step.does(fleet, node)
        eventually(partial(settled, fleet, node, step))
        eventually(lambda: is_quiet(proxy))
        counts.append(len(proxy.writes) - before)
        pictures.append(picture(fleet, node))
    assert pictures[-1]["serials"] == sorted(serials(LOST))
    return counts, pictures


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
