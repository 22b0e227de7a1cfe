"""What the page of `kubectl gpuid ui` knows: records, search, and what each browser is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gpuid_operator.cli.plugin_clusters import Cluster
from gpuid_operator.cli.ui import source
from gpuid_operator.cli.ui.index import MAX_HITS, Index
from gpuid_operator.cli.ui.records import node_record
from gpuid_operator.cli.ui.state import NODES, QUARANTINES, FleetState
from tests.support.kube import INVENTORIES, FakeKube, forbidden, server_error, unreachable
from tests.support.ui_fleet import (
    MOVED,
    condition,
    fill,
    gpu,
    inventory,
    move,
    pictured,
    store,
    trouble,
)

ROOT = Path(__file__).parents[2]


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not check():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.005)


@asynccontextmanager
async def followed(kube: FakeKube) -> AsyncIterator[FleetState]:
    state = FleetState(["a"])
    task = asyncio.create_task(source.follow(Cluster("a", kube), state))
    try:
        yield state
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def names(state: FleetState) -> set[str]:
    return {one["name"] for one in state.snapshot()[NODES]}


def word(state: FleetState, kind: str = NODES) -> str:
    (found,) = [one["state"] for one in state.snapshot()["clusters"] if one["kind"] == kind]
    return str(found)


def message(state: FleetState, kind: str = NODES) -> str:
    (found,) = [one["message"] for one in state.snapshot()["clusters"] if one["kind"] == kind]
    return str(found)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_FIRST_DELAY", 0.01)


def test_a_record_has_what_the_views_show_and_no_history() -> None:
    part = gpu(1, health={"eccUncorrected": 3, "recoveryAction": "None"}, quarantines=["q"])
    sinks = [
        {"name": "db", "type": "postgres", "pending": 0},
        {"name": "http", "type": "http", "pending": 2, "lastError": "503"},
    ]
    body = inventory("n", [part], sinks=sinks, conditions=[condition("Ready", "False", "NoPod")])
    record = node_record("a", body)
    assert record["conditions"] == {"Ready": ["False", "NoPod"]}
    assert [sink["name"] for sink in record["sinks"]] == ["http"]
    assert record["gpus"] == [
        [part["uuid"], part["serial"], None, part["pciAddress"], "OK", ["eccUncorrected"], ["q"]]
    ]
    assert "history" not in record


def test_the_pictures_show_only_reasons_that_the_operator_has() -> None:
    pages = (ROOT / "docs" / "runbooks" / "conditions.md").read_text().split("\n## ")
    shown = {
        (one["type"], one["reason"])
        for kube in pictured()
        for body in kube.objects.values()
        for one in body.get("status", {}).get("conditions", ())
    }
    assert len(shown) > 6
    for kind, reason in shown:
        (section,) = [page for page in pages if page.startswith(f"{kind}: ")]
        assert f"| `{reason}` |" in section


def test_an_inventory_without_status_has_a_record() -> None:
    record = node_record("a", {"metadata": {"name": "n"}})
    assert (record["name"], record["gpus"], record["conditions"]) == ("n", [], {})


def state_of(*bodies: dict[str, Any]) -> FleetState:
    state = FleetState(["a"])
    for body in bodies:
        state.put("a", NODES, body)
    return state


def test_a_gpu_that_left_is_found_where_it_was_and_where_it_is() -> None:
    one, two = FakeKube(), FakeKube()
    move(one, two)
    state = FleetState(["one", "two"])
    for cluster, kube in (("one", one), ("two", two)):
        for body in kube.objects.values():
            state.put(cluster, NODES, body)
    (hit,) = state.index.search(MOVED["serial"])
    assert [(p["cluster"], p["node"], p["presence"]) for p in hit["places"]] == [
        ("two", "gpu-node-0007", "present"),
        ("one", "gpu-node-0100", "past"),
        ("one", "gpu-node-0101", "past"),
    ]
    assert state.index.search(MOVED["uuid"].removeprefix("GPU-").upper())[0]["id"] == MOVED["uuid"]


def test_nodes_and_machines_are_found_and_equal_names_come_first() -> None:
    body = inventory("node-1", [gpu(1)], node={"name": "node-1", "machine": "i-77"})
    index = state_of(inventory("node-10", []), body).index
    assert [hit["node"] for hit in index.search("NODE-1")] == ["node-1", "node-10"]
    assert [hit["node"] for hit in index.search("i-77")] == ["node-1"]
    assert index.search("n") == index.search("nothing-like-it") == index.search("") == []


def test_a_search_has_a_bounded_answer() -> None:
    index = Index()
    for number in range(100):
        index.put(("a", f"n{number:03}"), None, [("S123", "present"), (f"S9{number}", "past")])
    assert len(index.search("S9")) == len(index.search("n0")) == MAX_HITS
    (hit,) = index.search("S123")
    assert (len(hit["places"]), hit["count"]) == (MAX_HITS, 100)


def test_what_a_node_no_longer_has_is_not_found() -> None:
    state = state_of(inventory("n", [gpu(1)]))
    state.put("a", NODES, inventory("n", [gpu(2)]))
    assert state.index.search(gpu(1)["serial"]) == []
    state.remove("a", NODES, "n")
    assert state.index.search(gpu(2)["serial"]) == state.index.search("n") == []


def test_many_changes_of_an_object_are_one_in_a_delta() -> None:
    state = state_of(inventory("n", []), inventory("m", []))
    with state.subscription() as changes:
        for number in range(5):
            state.put("a", NODES, inventory("n", [gpu(number)]))
        state.remove("a", NODES, "m")
        delta = state.delta(changes.take())
        assert [record["gpus"][0][0] for record in delta[NODES]] == [gpu(4)["uuid"]]
        assert delta["gone"] == [(NODES, "a", "m")]
        state.put("a", NODES, inventory("n", [gpu(4)]))
        assert changes.take() == [], "the record is the same"


async def test_the_state_follows_list_and_watch() -> None:
    kube = FakeKube()
    fill(kube, 150)
    trouble(kube)
    async with followed(kube) as state:
        await until(lambda: word(state) == word(state, QUARANTINES) == "ready")
        assert len(names(state)) == 150
        assert [one["name"] for one in state.snapshot()[QUARANTINES]] == ["xid-79"]
        lists = kube.asked("GET", INVENTORIES)
        store(kube, inventory("late", [gpu(7)]))
        kube.remove(f"{INVENTORIES}/gpu-node-0000")
        await until(lambda: "late" in names(state) and "gpu-node-0000" not in names(state))
        assert kube.asked("GET", INVENTORIES)[: len(lists)] == lists


async def test_an_expired_watch_lists_again_and_drops_what_is_gone() -> None:
    kube = FakeKube()
    fill(kube, 3)
    async with followed(kube) as state:
        await until(lambda: word(state) == "ready")
        kube.break_watches()
        kube.remove(f"{INVENTORIES}/gpu-node-0001")
        store(kube, inventory("late", []))
        kube.expire()
        wanted = {"gpu-node-0000", "gpu-node-0002", "late"}
        await until(lambda: names(state) == wanted)


@pytest.mark.parametrize(
    ("error", "shown", "words"),
    [
        (forbidden, "forbidden", "permission denied"),
        (server_error, "error", ""),
        (unreachable, "error", ""),
    ],
)
async def test_a_cluster_that_fails_says_why_and_is_tried_again(
    error: Callable[[], Exception], shown: str, words: str
) -> None:
    kube = FakeKube()
    fill(kube, 1)
    kube.fail("GET", INVENTORIES, error())
    seen: list[tuple[str, str]] = []
    async with followed(kube) as state:
        with state.subscription() as changes:
            while word(state) != "ready":
                await changes.wait()
                changes.take()
                seen.append((word(state), message(state)))
    assert shown in [said for said, _ in seen]
    assert any(words in text and text for said, text in seen if said == shown)
    assert names(state) == {"gpu-node-0000"}


async def test_a_watch_that_breaks_off_is_no_error() -> None:
    kube = FakeKube()
    fill(kube, 1)
    async with followed(kube) as state:
        await until(lambda: word(state) == "ready")
        with state.subscription() as changes:
            kube.break_watches()
            store(kube, inventory("late", []))
            await until(lambda: "late" in names(state))
            assert [key for key in changes.take() if key[0] == "clusters"] == []


async def test_a_missing_right_to_watch_is_said() -> None:
    kube = FakeKube()
    fill(kube, 1)
    kube.fail("WATCH", INVENTORIES, forbidden(), times=1000)
    async with followed(kube) as state:
        await until(lambda: word(state) == "forbidden")
        assert names(state) == {"gpu-node-0000"}
