"""Users who edit or delete what the operator wrote."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gpuid_operator.api.inventory import InventoryStatus
from tests.faults.campaign import SEED, WHOLE, Figures
from tests.support import clock
from tests.support.bystander import NODE, World, world
from tests.support.engines import until
from tests.support.objects import inventory_path, node_path, quarantine_path
from tests.support.schema_strategies import schema_of, values

CONDEMNED = "rma"
STATUS = schema_of("GPUInventory", "status")
Row = Callable[[str], Figures]


@st.composite
def edits(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a status and their new values; None deletes one."""
    fields = draw(values(STATUS))
    kept = draw(st.sets(st.sampled_from(sorted(STATUS["properties"])), min_size=1, max_size=4))
    return {name: fields.get(name) for name in kept}


def apply(body: dict[str, Any], edit: dict[str, Any]) -> None:
    status = body.setdefault("status", {})
    for name, value in edit.items():
        if value is None:
            status.pop(name, None)
        else:
            status[name] = copy.deepcopy(value)


def test_edited_statuses(figures: Row) -> None:
    row = figures("edited statuses")

    @seed(SEED)
    @settings(
        max_examples=3000 if WHOLE else 60,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(edits())
    def edited(edit: dict[str, Any]) -> None:
        async def play() -> None:
            async with world() as made:
                row.injected += 1
                await meddle(made, edit)
            row.survived += 1

        clock.run(play())

    edited()


async def meddle(made: World, edit: dict[str, Any]) -> None:
    """Edit the status of a node as a user does. It is right again after the next read, or an Event
    says that the operator cannot parse it."""
    path = inventory_path(NODE)
    made.kube.change(path, lambda body: apply(body, edit))
    await asyncio.sleep(60)
    if not is_parsed(made.kube.objects[path]["status"]):
        await until(made.says_not_understood)
        made.kube.change(path, lambda body: body.pop("status"))
    await made.is_working(NODE)


def of_status(edit: Callable[[dict[str, Any]], object]) -> Callable[[World], None]:
    """An edit of the node's status in place."""

    def act(made: World) -> None:
        made.kube.change(inventory_path(NODE), lambda body: edit(body["status"]))

    return act


def of_meta(path: str, **labels: str) -> Callable[[World], None]:
    """All labels of an object are replaced."""

    def act(made: World) -> None:
        made.kube.change(path, lambda body: body["metadata"].update(labels=dict(labels)))

    return act


ACTIONS: dict[str, Callable[[World], object]] = {
    "the inventory is deleted": lambda made: made.kube.remove(inventory_path(NODE)),
    "all labels are removed": of_meta(inventory_path(NODE)),
    "a foreign label is all there is": of_meta(inventory_path(NODE), team="a"),
    "the Node loses its labels": of_meta(node_path(NODE), bystander="false"),
    "the status is removed": lambda made: made.kube.change(
        inventory_path(NODE), lambda body: body.pop("status")
    ),
    "the history is removed": of_status(lambda status: status.pop("history")),
    "one entry is removed": of_status(lambda status: status["history"].pop(0)),
    "one GPU is removed": of_status(lambda status: status["gpus"].pop()),
    "all GPUs are removed": of_status(lambda status: status.update(gpus=[])),
    "the cursors are removed": of_status(lambda status: status.pop("sinks")),
    "the cursor is ahead": of_status(
        lambda status: status["sinks"][0].update(deliveredSequence=2**63 - 1)
    ),
    "the sequence is 0": of_status(lambda status: status.update(sequence=0)),
    "the sequence is huge": of_status(lambda status: status.update(sequence=2**63 - 1)),
    "an entry's sequence is huge": of_status(
        lambda status: status["history"][-1].update(sequence=2**63 - 1)
    ),
    "the last read is in the future": of_status(
        lambda status: status.update(lastReadTime="2999-01-01T00:00:00Z")
    ),
    "the node has departed": of_status(lambda status: status.update(state="Departed")),
    "the conditions are removed": of_status(lambda status: status.pop("conditions")),
    "the marks are removed": of_status(
        lambda status: [gpu.pop("quarantines", None) for gpu in status["gpus"]]
    ),
    "a mark is of no quarantine": of_status(
        lambda status: status["gpus"][1].update(quarantines=["ghost", CONDEMNED])
    ),
    "the status of the quarantine is removed": lambda made: made.kube.change(
        quarantine_path(CONDEMNED), lambda body: body.pop("status")
    ),
    "the taint is removed": lambda made: made.kube.change(
        node_path(NODE), lambda body: body["spec"].pop("taints")
    ),
    "the source is another": of_status(lambda status: status["source"].update(containerID="x")),
}


def test_what_users_do_by_hand(figures: Row) -> None:
    """After the next read the inventory, its labels and those of the Node are right again; after a
    resync, what a quarantine marks is, too."""
    row = figures("edits by hand")
    for action, act in ACTIONS.items():
        print(action)
        row.injected += 1
        clock.run(by_hand(act, row))
        row.survived += 1


async def by_hand(act: Callable[[World], object], row: Figures) -> None:
    async with world(quarantine_taints=True) as made:
        part = {"uuid": made.status(NODE)["gpus"][1]["uuid"]}
        made.harness.quarantine(CONDEMNED, part, action="Taint")
        await until(lambda: is_condemned(made))
        await asyncio.sleep(60)  # entries of the same second look alike
        act(made)
        await asyncio.sleep(60)
        await made.is_working(NODE)
        await until(lambda: is_condemned(made))
        body = made.kube.objects[inventory_path(NODE)]
        status = body["status"]
        numbers = [entry["sequence"] for entry in status["history"]]
        assert numbers == sorted(set(numbers)) and numbers[-1] == status["sequence"] < 100
        labels = body["metadata"]["labels"]
        assert {gpu["uuid"] for gpu in status["gpus"]} == {
            name.partition("/")[2]
            for name, value in labels.items()
            if name.startswith("uuid.") and value == "present"
        }
        node = made.kube.objects[node_path(NODE)]["metadata"]["labels"]
        assert {gpu["serial"] for gpu in status["gpus"]} == {
            value for name, value in node.items() if name.startswith("gpuid.github.com/gpu-")
        }
        ids: dict[tuple[str, ...], set[str]] = {}
        for record in made.harness.records:
            told = (record["node"], record["event"], record["uuid"], str(record["time"]))
            ids.setdefault(told, set()).add(record["id"])
        swaps = ("GPUAdded", "GPURemoved")
        mine = [entry["uuid"] for entry in status["history"] if entry["type"] in swaps]
        delivered = sum(any(uuid in told for told in ids) for uuid in mine)
        doubled = sum(len(found) - 1 for found in ids.values())
        row.expected += len(mine)
        row.delivered += delivered
        row.doubled += doubled
        assert mine
        assert (delivered, doubled) == (len(mine), 0)


def is_condemned(made: World) -> bool:
    """Whether the second GPU is marked, the quarantine says so, and the Node has the taint."""
    status = made.kube.objects[quarantine_path(CONDEMNED)].get("status", {})
    taints = made.kube.objects[node_path(NODE)]["spec"].get("taints") or ()
    return (
        [gpu.get("quarantines") for gpu in made.status(NODE)["gpus"]] == [None, [CONDEMNED]]
        and [match["node"] for match in status.get("matches", ())] == [NODE]
        and [taint["value"] for taint in taints] == [CONDEMNED]
    )


def is_parsed(status: dict[str, Any]) -> bool:
    try:
        InventoryStatus.model_validate(status)
    except ValidationError:
        return False
    return True
