"""The writer of inventories: conflicts, faults of the server, objects that vanish, mistakes."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.api.meta import INVENTORY_PLURAL
from gpuid_operator.kube.errors import (
    ApiUnreachable,
    Conflict,
    Forbidden,
    KubeError,
    NotFound,
    ServerError,
)
from gpuid_operator.plan.status_change import StatusChange, StatusContext
from tests.support.kube import FakeKube, forbidden, server_error, too_many_requests, unreachable
from tests.support.objects import inventory_path, put_inventory
from tests.support.smi_fixtures import machine, uuids
from tests.support.writing import Writing, counting, reading, setting

ATTEMPTS = 6
STATUS = r"/gpuinventories/n1/status$"
CREATE = r"/gpuinventories$"


@pytest.fixture
def writing(kube: FakeKube) -> Writing:
    """A writer that knows of one inventory, n1, with 10 GPUs."""
    put_inventory(kube, "n1", status={"state": "Present", "gpuCount": 10})
    writing = Writing(kube)
    writing.load("n1")
    return writing


def conflict() -> Conflict:
    return Conflict("!", status=409, reason="Conflict", server_message="!")


async def test_after_a_conflict_it_is_decided_anew_on_what_is_there(
    kube: FakeKube, writing: Writing
) -> None:
    kube.change(inventory_path("n1"), lambda body: body["status"].update(gpuCount=20))
    decide, decisions = counting()
    change = await writing.status_writer.write("n1", decide)
    assert change is not None
    assert change.status.gpu_count == 21
    assert decisions() == 2
    assert writing.status("n1")["gpuCount"] == 21
    # Another writer is no reason to wait.
    assert {one.time for one in kube.requests} == {0.0}
    # What a watcher is told was before is what the other writer made of it.
    (written,) = writing.written
    assert written.before.gpu_count == 20


async def test_after_a_conflict_only_what_is_still_news_is_written(
    kube: FakeKube, writing: Writing
) -> None:
    kube.change(inventory_path("n1"), lambda body: body["status"].update(gpuCount=20))
    await writing.status_writer.write("n1", setting(gpu_count=20))
    assert len(kube.asked("PATCH", STATUS)) == 1
    assert writing.written == []


async def test_a_conflict_that_never_ends_is_given_up(kube: FakeKube, writing: Writing) -> None:
    kube.fail("PATCH", STATUS, conflict(), times=100)
    with pytest.raises(Conflict):
        await writing.status_writer.write("n1", setting(gpu_count=1))
    assert len(kube.asked("PATCH", STATUS)) == ATTEMPTS


async def test_an_inventory_that_another_created_is_taken_over(kube: FakeKube) -> None:
    writing = Writing(kube)
    put_inventory(kube, "n1", status={"state": "Present", "gpuCount": 10})
    decide, _ = counting()
    change = await writing.status_writer.write("n1", decide, create=True)
    assert change is not None
    assert writing.status("n1")["gpuCount"] == 11
    assert [one.method for one in kube.requests] == ["POST", "GET", "PATCH"]


async def test_a_creation_without_an_answer_is_not_done_twice(kube: FakeKube) -> None:
    writing = Writing(kube)
    kube.fail("POST", CREATE, unreachable(), after=True)
    await writing.status_writer.write("n1", setting(gpu_count=1), create=True)
    assert len(kube.asked("POST", CREATE)) == 1
    assert writing.status("n1")["gpuCount"] == 1
    assert [written.before for written in writing.written] == [InventoryStatus()]


async def test_a_write_without_an_answer_adds_nothing_to_the_history_twice(
    kube: FakeKube,
) -> None:
    xml = machine("n1")
    writing = Writing(kube)
    kube.fail("PATCH", STATUS, unreachable(), after=True)
    await writing.status_writer.write("n1", reading(xml), create=True)
    added = [one for one in writing.status("n1")["history"] if one["type"] == "GPUAdded"]
    assert sorted(entry["uuid"] for entry in added) == sorted(uuids(xml))


@pytest.mark.parametrize("error", [unreachable(), server_error(), too_many_requests()])
async def test_a_server_that_fails_is_asked_again_after_a_pause(
    kube: FakeKube, writing: Writing, error: KubeError
) -> None:
    kube.fail("PATCH", STATUS, error, times=2)
    await writing.status_writer.write("n1", setting(gpu_count=1))
    assert writing.status("n1")["gpuCount"] == 1
    first, second, third = (one.time for one in kube.asked("PATCH", STATUS))
    assert first < second < third
    # Before each further attempt it looks whether the one before was done after all.
    assert len(kube.asked("GET", "/gpuinventories/n1$")) == 2


async def test_a_server_that_fails_for_long_is_given_up(kube: FakeKube, writing: Writing) -> None:
    kube.fail("PATCH", STATUS, server_error(), times=ATTEMPTS)
    kube.fail("GET", "/gpuinventories/n1$", unreachable(), times=100)
    decide, _ = counting()
    results = await asyncio.gather(
        writing.status_writer.write("n1", decide),
        writing.status_writer.write("n1", decide),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [ServerError, ServerError]
    assert len(kube.asked("PATCH", STATUS)) == ATTEMPTS
    # That was all that is lost: whoever comes again is served.
    change = await writing.status_writer.write("n1", decide)
    assert change is not None
    assert writing.status("n1")["gpuCount"] == 11


async def test_pauses_between_attempts_stay_short(kube: FakeKube, writing: Writing) -> None:
    kube.fail("PATCH", STATUS, unreachable(), times=100)
    with pytest.raises(ApiUnreachable):
        await writing.status_writer.write("n1", setting(gpu_count=1))
    times = [one.time for one in kube.asked("PATCH", STATUS)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(0 < pause <= 10 for pause in pauses)


async def test_without_the_right_to_write_it_is_not_tried_again(
    kube: FakeKube, writing: Writing
) -> None:
    kube.fail("PATCH", STATUS, forbidden())
    with pytest.raises(Forbidden):
        await writing.status_writer.write("n1", setting(gpu_count=1))
    assert len(kube.requests) == 1


async def test_an_inventory_that_a_user_deletes_is_created_anew(
    kube: FakeKube, writing: Writing
) -> None:
    kube.remove(inventory_path("n1"))
    decide, decisions = counting()
    change = await writing.status_writer.write("n1", decide, create=True)
    assert change is not None
    # What was decided on the old one is void.
    assert change.status.gpu_count == 1
    assert decisions() == 2
    assert writing.gone == [("n1", "uid-1")]
    assert kube.objects[inventory_path("n1")]["metadata"]["uid"] == "uid-2"


async def test_an_inventory_that_a_user_deletes_stays_deleted_where_nothing_creates_it(
    kube: FakeKube, writing: Writing
) -> None:
    kube.remove(inventory_path("n1"))
    assert await writing.status_writer.write("n1", setting(gpu_count=1)) is None
    assert kube.objects == {}
    assert "n1" not in writing.inventories


async def test_an_inventory_that_is_deleted_during_a_conflict_is_forgotten(
    kube: FakeKube, writing: Writing
) -> None:
    kube.fail("PATCH", STATUS, conflict())
    kube.remove(inventory_path("n1"))
    assert await writing.status_writer.write("n1", setting(gpu_count=1)) is None
    assert writing.gone == [("n1", "uid-1")]


async def test_an_inventory_that_was_replaced_is_another(kube: FakeKube, writing: Writing) -> None:
    kube.remove(inventory_path("n1"))
    put_inventory(kube, "n1", status={"state": "Present", "gpuCount": 50})
    decide, decisions = counting()
    other = setting(gpu_count=1)
    void, _ = await asyncio.gather(
        writing.status_writer.write("n1", other, uid="uid-1"),
        writing.status_writer.write("n1", decide),
    )
    assert void is None
    assert decisions() == 2
    assert writing.status("n1")["gpuCount"] == 51


async def test_where_inventories_are_not_served_it_is_given_up(kube: FakeKube) -> None:
    writing = Writing(kube)
    kube.served.discard(INVENTORY_PLURAL)
    with pytest.raises(NotFound):
        await writing.status_writer.write("n1", setting(gpu_count=1), create=True)
    assert len(kube.asked("POST", CREATE)) == ATTEMPTS


async def test_a_mistake_in_a_change_reaches_whoever_made_it_and_stops_nobody_else(
    kube: FakeKube, writing: Writing, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(status: InventoryStatus, context: StatusContext) -> StatusChange:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        await writing.status_writer.write("n1", broken)
    assert any(record.exc_info for record in caplog.records)
    await writing.status_writer.write("n1", setting(gpu_count=1))
    assert writing.status("n1")["gpuCount"] == 1


async def test_a_failure_after_nobody_waits_any_more_reaches_the_others(
    kube: FakeKube, writing: Writing
) -> None:
    go = asyncio.Event()
    held_up = kube.fail("PATCH", STATUS, forbidden(), until=go)
    first, second = (
        asyncio.create_task(writing.status_writer.write("n1", setting(gpu_count=1)))
        for _ in range(2)
    )
    await held_up.met.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go.set()
    with pytest.raises(Forbidden):
        await second
    assert await writing.status_writer.finish(within=10)
    assert writing.status("n1")["gpuCount"] == 10
