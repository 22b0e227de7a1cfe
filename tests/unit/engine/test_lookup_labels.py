"""The look-up labels of inventories follow their statuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpuid_operator.api.inventory import InventoryState
from gpuid_operator.kube.errors import Conflict
from tests.support.kube import FakeKube, forbidden, server_error
from tests.support.objects import inventory_path, put_inventory
from tests.support.writing import Writing, setting

OBJECT = r"/gpuinventories/n1$"
PREFIX = "serial.gpuid.github.com/"


def status(*serials: str) -> dict[str, Any]:
    return {"state": "Present", "gpus": [{"serial": serial} for serial in serials]}


@pytest.fixture
def writing(kube: FakeKube) -> Writing:
    """A writer that knows of one inventory, n1, with the GPU `old`."""
    labels = {f"{PREFIX}old": "present", "team": "a"}
    put_inventory(kube, "n1", status=status("old"), labels=labels)
    writing = Writing(kube)
    writing.load("n1")
    return writing


def conflict() -> Conflict:
    return Conflict("!", status=409, reason="Conflict", server_message="!")


def labels_of(kube: FakeKube) -> dict[str, str]:
    found: dict[str, str] = kube.objects[inventory_path("n1")]["metadata"]["labels"]
    return found


def new_gpu(writing: Writing) -> Any:
    gpus = writing.inventories.status("n1").gpus or []
    return setting(gpus=[gpu.model_copy(update={"serial": "new"}) for gpu in gpus])


async def test_labels_follow_the_status_that_was_written(kube: FakeKube, writing: Writing) -> None:
    await writing.status_writer.write("n1", new_gpu(writing))
    assert labels_of(kube) == {f"{PREFIX}new": "present", "team": "a"}
    assert [one.path.rpartition("/")[2] for one in kube.requests] == ["status", "n1"]
    cached = writing.inventories.get("n1")
    assert cached is not None
    assert cached.labels == labels_of(kube)
    assert (
        cached.resource_version == kube.objects[inventory_path("n1")]["metadata"]["resourceVersion"]
    )


async def test_a_status_whose_labels_are_right_costs_no_second_write(
    kube: FakeKube, writing: Writing
) -> None:
    await writing.status_writer.write("n1", setting(gpu_count=1))
    assert len(kube.requests) == 1


async def test_labels_are_written_on_what_another_made_of_the_object(
    kube: FakeKube, writing: Writing
) -> None:
    def user(body: dict[str, Any]) -> None:
        body["metadata"]["labels"]["team"] = "b"

    go = asyncio.Event()
    held_up = kube.fail("PATCH", OBJECT, until=go)
    task = asyncio.create_task(writing.status_writer.write("n1", new_gpu(writing)))
    await held_up.met.wait()
    kube.change(inventory_path("n1"), user)
    go.set()
    await task
    assert [one.method for one in kube.requests] == ["PATCH", "PATCH", "GET", "PATCH"]
    assert labels_of(kube) == {f"{PREFIX}new": "present", "team": "b"}


@pytest.mark.parametrize("error", [forbidden(), server_error()])
async def test_a_failure_of_the_labels_leaves_the_status_written_and_is_made_up_for_later(
    kube: FakeKube, writing: Writing, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    kube.fail("PATCH", OBJECT, error)
    assert await writing.status_writer.write("n1", new_gpu(writing)) is not None
    assert f"{PREFIX}old" in labels_of(kube)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert len(writing.written) == 1
    await writing.status_writer.retry_labels("n1")
    assert labels_of(kube) == {f"{PREFIX}new": "present", "team": "a"}
    # Nothing is owed any more: what others do to labels is found by the re-sync.
    kube.change(inventory_path("n1"), lambda body: body["metadata"].update(labels={}))
    writing.load("n1")
    await writing.status_writer.retry_labels("n1")
    assert labels_of(kube) == {}


async def test_a_refresh_that_is_refused_leaves_the_status_written(
    kube: FakeKube, writing: Writing
) -> None:
    kube.fail("PATCH", OBJECT, conflict())
    kube.fail("GET", OBJECT, forbidden())
    assert await writing.status_writer.write("n1", new_gpu(writing)) is not None
    assert len(writing.written) == 1
    await writing.status_writer.retry_labels("n1")
    assert f"{PREFIX}new" in labels_of(kube)


async def test_labels_that_conflict_for_ever_are_left_for_later(
    kube: FakeKube, writing: Writing
) -> None:
    kube.fail("PATCH", OBJECT, conflict(), times=6)
    await writing.status_writer.write("n1", new_gpu(writing))
    assert len(kube.asked("PATCH", OBJECT)) == 6
    await writing.status_writer.retry_labels("n1")
    assert f"{PREFIX}new" in labels_of(kube)


async def test_an_inventory_that_is_deleted_before_its_labels_is_forgotten(
    kube: FakeKube, writing: Writing
) -> None:
    fault = kube.fail("PATCH", OBJECT, conflict())
    change = new_gpu(writing)

    async def delete() -> None:
        await fault.met.wait()
        kube.remove(inventory_path("n1"))

    task = asyncio.create_task(delete())
    assert await writing.status_writer.write("n1", change) is not None
    await task
    assert writing.gone == [("n1", "uid-1")]
    requests = len(kube.requests)
    await writing.status_writer.retry_labels("n1")
    assert len(kube.requests) == requests


async def test_labels_that_somebody_altered_are_repaired(kube: FakeKube, writing: Writing) -> None:
    def vandal(body: dict[str, Any]) -> None:
        body["metadata"]["labels"] = {f"{PREFIX}wrong": "present", "team": "a"}

    kube.change(inventory_path("n1"), vandal)
    writing.load("n1")
    await writing.status_writer.retry_labels("n1")  # nothing is owed
    assert f"{PREFIX}wrong" in labels_of(kube)
    await writing.status_writer.repair_labels("n1")
    assert labels_of(kube) == {f"{PREFIX}old": "present", "team": "a"}


async def test_labels_of_an_inventory_that_is_not_there_are_nothing_to_write(
    kube: FakeKube, writing: Writing
) -> None:
    await writing.status_writer.repair_labels("n2")
    assert kube.requests == []


async def test_a_departed_nodes_identifiers_are_past(kube: FakeKube, writing: Writing) -> None:
    await writing.status_writer.write("n1", setting(state=InventoryState.DEPARTED))
    assert labels_of(kube) == {f"{PREFIX}old": "past", "team": "a"}
