"""A resync lists the metadata of inventories, and fetches whole only those that changed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from gpuid_operator.engine.reconcile.inventory_list import InventoryList
from gpuid_operator.kube.client import ONLY_METADATA_LIST
from gpuid_operator.kube.errors import ListExpired, ServerError
from tests.support.kube import FakeKube, server_error
from tests.support.objects import inventory_path, put_inventory
from tests.unit.engine.reading import ReadBench

NAMES = [f"n{number:03}" for number in range(300)]


class Bench(ReadBench):
    """A list of inventories, and what it reported."""

    def __init__(self, kube: FakeKube) -> None:
        super().__init__(kube)
        self.list = InventoryList(kube, inventories=self.inventories, events=self)
        self.found: list[str] = []
        self.gone: list[str] = []

    def inventory_changed(self, body: dict[str, Any]) -> None:
        self.found.append(body["metadata"]["name"])
        super().inventory_changed(body)

    def inventory_deleted(self, name: str, uid: str) -> None:
        self.gone.append(name)
        super().inventory_deleted(name, uid)

    @property
    def fetched(self) -> list[str]:
        """The names of the inventories that were fetched one by one."""
        paths = [request.path for request in self.kube.asked("GET", "/gpuinventories/")]
        return [path.rpartition("/")[2] for path in paths]

    def sequence(self, name: str) -> int:
        cached = self.inventories.get(name)
        assert cached is not None
        return cached.sequence


@pytest.fixture
async def bench(kube: FakeKube) -> Bench:
    """All inventories are listed once."""
    bench = Bench(kube)
    for name in NAMES:
        put_inventory(kube, name, status={"sequence": 1})
    await bench.list.run()
    assert bench.found == NAMES
    assert bench.fetched == []
    bench.found.clear()
    kube.requests.clear()
    return bench


def change(bench: Bench, *names: str, sequence: int = 2) -> None:
    for name in names:
        put_inventory(bench.kube, name, status={"sequence": sequence})


async def test_nothing_is_fetched_while_nothing_changes(bench: Bench) -> None:
    assert await bench.list.run() == str(bench.kube.version)
    assert bench.found == bench.gone == []
    assert {request.accept for request in bench.kube.requests} == {ONLY_METADATA_LIST}
    assert len(bench.kube.requests) == 3


async def test_a_change_that_no_event_reported_is_found(bench: Bench) -> None:
    change(bench, "n007", "n299")
    await bench.list.run()
    assert bench.fetched == bench.found == ["n007", "n299"]
    assert bench.sequence("n007") == bench.sequence("n299") == 2
    await bench.list.run()
    assert bench.fetched == ["n007", "n299"]


async def test_a_deletion_that_no_event_reported_is_found(bench: Bench) -> None:
    bench.kube.remove(inventory_path("n007"))
    await bench.list.run()
    assert bench.gone == ["n007"]
    assert bench.fetched == []


async def test_one_of_the_same_name_is_another(bench: Bench) -> None:
    bench.kube.remove(inventory_path("n007"))
    made = put_inventory(bench.kube, "n007")
    await bench.list.run()
    assert bench.gone == []
    assert bench.inventories.uid("n007") == made["metadata"]["uid"]


async def test_one_that_an_event_brought_later_is_not_fetched(bench: Bench) -> None:
    """The list may be older than what is known."""

    def event() -> None:
        change(bench, "n007", sequence=3)
        bench.inventory_changed(bench.kube.objects[inventory_path("n007")])

    change(bench, "n007")
    bench.kube.fail("GET", "/gpuinventories$", after=True, delay=1.0)
    asyncio.get_running_loop().call_later(0.5, event)
    await bench.list.run()
    assert bench.sequence("n007") == 3
    assert bench.fetched == []


async def test_one_that_goes_while_it_is_fetched_is_gone(bench: Bench) -> None:
    change(bench, "n007")
    path = inventory_path("n007")
    bench.kube.fail("GET", "/n007$", meanwhile=lambda: bench.kube.remove(path))
    await bench.list.run()
    assert bench.gone == ["n007"]


async def test_a_fetch_that_fails_fails_the_list_and_is_made_up_for(bench: Bench) -> None:
    change(bench, "n007")
    bench.kube.fail("GET", "/n007$", server_error())
    with pytest.raises(ServerError):
        await bench.list.run()
    await bench.list.run()
    assert bench.sequence("n007") == 2


async def test_many_are_listed_whole(bench: Bench) -> None:
    """That costs less than a request for each."""
    change(bench, *NAMES[:61])
    await bench.list.run()
    assert bench.fetched == []
    assert len(bench.kube.requests) == 3 + 12
    assert all(bench.sequence(name) == 2 for name in NAMES[:61])


async def test_one_that_cannot_be_parsed_is_fetched_once(bench: Bench) -> None:
    put_inventory(bench.kube, "n007", status={"sequence": "as a later version writes it"})
    with pytest.raises(ValidationError):
        await bench.list.run()  # an engine logs it instead
    await bench.list.run()
    assert bench.fetched == ["n007"]
    assert bench.inventories.is_invalid("n007")


async def test_an_old_list_shows_nothing(bench: Bench) -> None:
    change(bench, "n007")
    await bench.list.run()
    bench.kube.fail("GET", "/gpuinventories$", back=10)
    with pytest.raises(ListExpired):
        await bench.list.run()
    assert bench.gone == []
