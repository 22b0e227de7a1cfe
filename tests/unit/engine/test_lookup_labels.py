"""The look-up labels of inventories follow the statuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpuid_operator.api.inventory import GPU, InventoryState
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
    """A writer with one inventory in its cache: n1, with the GPU `old`."""
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


def remove_labels(writing: Writing) -> None:
    """Another client removes all labels, and the cache learns about it."""
    path = inventory_path("n1")
    writing.kube.change(path, lambda body: body["metadata"].update(labels={}))
    writing.load("n1")


async def test_labels_follow_a_written_status(kube: FakeKube, writing: Writing) -> None:
    await writing.status_writer.write("n1", new_gpu(writing))
    assert labels_of(kube) == {f"{PREFIX}new": "present", "team": "a"}
    assert [one.path.rpartition("/")[2] for one in kube.requests] == ["status", "n1"]
    cached = writing.inventories.get("n1")
    assert cached is not None
    assert cached.labels == labels_of(kube)
    assert (
        cached.resource_version == kube.objects[inventory_path("n1")]["metadata"]["resourceVersion"]
    )


async def test_a_status_that_needs_no_other_labels_takes_one_write(
    kube: FakeKube, writing: Writing
) -> None:
    await writing.status_writer.write("n1", setting(gpu_count=1))
    assert len(kube.requests) == 1


async def test_a_status_of_the_same_gpus_computes_no_labels(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpuid_operator.engine.writing.lookup_labels.lookup_labels", None)
    await writing.status_writer.write("n1", setting(gpu_count=1))


async def test_labels_that_failed_are_written_with_the_next_status(
    kube: FakeKube, writing: Writing
) -> None:
    kube.fail("PATCH", OBJECT, server_error())
    await writing.status_writer.write("n1", new_gpu(writing))
    assert f"{PREFIX}old" in labels_of(kube)
    await writing.status_writer.write("n1", setting(gpu_count=1))
    assert labels_of(kube) == {f"{PREFIX}new": "present", "team": "a"}


async def test_an_inventory_without_a_status_gets_its_labels(kube: FakeKube) -> None:
    """A user, or the operator before it ended, created it."""
    put_inventory(kube, "n1", status={})
    writing = Writing(kube)
    writing.load("n1")
    await writing.status_writer.write("n1", setting(gpus=[GPU(serial="new")]))
    assert labels_of(kube) == {f"{PREFIX}new": "present"}


async def test_labels_keep_what_another_client_wrote_meanwhile(
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
async def test_labels_that_failed_are_written_by_a_retry(
    kube: FakeKube, writing: Writing, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    kube.fail("PATCH", OBJECT, error)
    assert await writing.status_writer.write("n1", new_gpu(writing)) is not None
    assert f"{PREFIX}old" in labels_of(kube)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert len(writing.written) == 1
    await writing.status_writer.retry_labels("n1")
    assert labels_of(kube) == {f"{PREFIX}new": "present", "team": "a"}
    # A retry after a successful write does nothing, even if somebody changed the labels.
    kube.change(inventory_path("n1"), lambda body: body["metadata"].update(labels={}))
    writing.load("n1")
    await writing.status_writer.retry_labels("n1")
    assert labels_of(kube) == {}


async def test_a_refresh_that_is_forbidden_does_not_fail_the_status_write(
    kube: FakeKube, writing: Writing
) -> None:
    kube.fail("PATCH", OBJECT, conflict())
    kube.fail("GET", OBJECT, forbidden())
    assert await writing.status_writer.write("n1", new_gpu(writing)) is not None
    assert len(writing.written) == 1
    await writing.status_writer.retry_labels("n1")
    assert f"{PREFIX}new" in labels_of(kube)


async def test_labels_that_keep_conflicting_are_written_by_a_retry(
    kube: FakeKube, writing: Writing
) -> None:
    kube.fail("PATCH", OBJECT, conflict(), times=6)
    await writing.status_writer.write("n1", new_gpu(writing))
    assert len(kube.asked("PATCH", OBJECT)) == 6
    await writing.status_writer.retry_labels("n1")
    assert f"{PREFIX}new" in labels_of(kube)


async def test_an_inventory_that_is_deleted_before_its_labels_is_removed_from_the_cache(
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


async def test_a_change_that_is_found_during_a_write_is_repaired(
    kube: FakeKube, writing: Writing
) -> None:
    kube.fail("PATCH", OBJECT, after=True, delay=2)
    task = asyncio.create_task(writing.status_writer.write("n1", new_gpu(writing)))
    await asyncio.sleep(1)  # the answer of the API server is late
    remove_labels(writing)
    writing.status_writer.labels_changed("n1")
    await task
    assert labels_of(kube) == {}
    await writing.status_writer.retry_labels("n1")
    assert labels_of(kube) == {f"{PREFIX}new": "present"}


async def test_labels_that_somebody_removes_from_a_new_inventory_are_written(
    kube: FakeKube,
) -> None:
    writing = Writing(kube)

    kube.fail("POST", r"/gpuinventories$", after=True, delay=2)
    gpus = setting(gpus=[GPU(serial="new")])
    task = asyncio.create_task(writing.status_writer.write("n1", gpus, create=True))
    await asyncio.sleep(1)
    remove_labels(writing)
    await task
    assert labels_of(kube) == {f"{PREFIX}new": "present"}


async def test_labels_that_somebody_changed_are_repaired(kube: FakeKube, writing: Writing) -> None:
    def edit(body: dict[str, Any]) -> None:
        body["metadata"]["labels"] = {f"{PREFIX}wrong": "present", "team": "a"}

    kube.change(inventory_path("n1"), edit)
    writing.load("n1")
    await writing.status_writer.retry_labels("n1")  # no write has failed
    assert f"{PREFIX}wrong" in labels_of(kube)
    writing.status_writer.labels_changed("n1")
    await writing.status_writer.retry_labels("n1")
    assert labels_of(kube) == {f"{PREFIX}old": "present", "team": "a"}


async def test_labels_of_an_unknown_inventory_are_not_written(
    kube: FakeKube, writing: Writing
) -> None:
    writing.status_writer.labels_changed("n2")
    await writing.status_writer.retry_labels("n2")
    assert kube.requests == []


async def test_identifiers_of_a_departed_node_are_past(kube: FakeKube, writing: Writing) -> None:
    await writing.status_writer.write("n1", setting(state=InventoryState.DEPARTED))
    assert labels_of(kube) == {f"{PREFIX}old": "past", "team": "a"}
