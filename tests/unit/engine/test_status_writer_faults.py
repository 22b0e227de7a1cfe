"""The status writer: conflicts, errors of the server, deleted objects, failed decisions."""

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
    """A writer with one inventory in its cache: n1, with 10 GPUs."""
    put_inventory(kube, "n1", status={"state": "Present", "gpuCount": 10})
    writing = Writing(kube)
    writing.load("n1")
    return writing


def conflict() -> Conflict:
    return Conflict("!", status=409, reason="Conflict", server_message="!")


async def test_after_a_conflict_the_decision_is_repeated_on_the_current_status(
    kube: FakeKube, writing: Writing
) -> None:
    kube.change(inventory_path("n1"), lambda body: body["status"].update(gpuCount=20))
    decide, decisions = counting()
    change = await writing.status_writer.write("n1", decide)
    assert change is not None
    assert change.status.gpu_count == 21
    assert decisions() == 2
    assert writing.status("n1")["gpuCount"] == 21
    # A conflict is retried at once.
    assert {one.time for one in kube.requests} == {0.0}
    # Listeners receive the status of the other writer as the one before.
    (written,) = writing.written
    assert written.before.gpu_count == 20


async def test_after_a_conflict_a_status_that_is_there_already_is_not_written(
    kube: FakeKube, writing: Writing
) -> None:
    kube.change(inventory_path("n1"), lambda body: body["status"].update(gpuCount=20))
    await writing.status_writer.write("n1", setting(gpu_count=20))
    assert len(kube.asked("PATCH", STATUS)) == 1
    assert writing.written == []


async def test_a_conflict_is_raised_after_the_last_attempt(
    kube: FakeKube, writing: Writing
) -> None:
    kube.fail("PATCH", STATUS, conflict(), times=100)
    with pytest.raises(Conflict):
        await writing.status_writer.write("n1", setting(gpu_count=1))
    assert len(kube.asked("PATCH", STATUS)) == ATTEMPTS


async def test_an_inventory_that_another_client_created_is_used(kube: FakeKube) -> None:
    writing = Writing(kube)
    put_inventory(kube, "n1", status={"state": "Present", "gpuCount": 10})
    decide, _ = counting()
    change = await writing.status_writer.write("n1", decide, create=True)
    assert change is not None
    assert writing.status("n1")["gpuCount"] == 11
    assert [one.method for one in kube.requests] == ["POST", "GET", "PATCH"]


async def test_a_creation_without_an_answer_is_not_repeated(kube: FakeKube) -> None:
    writing = Writing(kube)
    kube.fail("POST", CREATE, unreachable(), after=True)
    await writing.status_writer.write("n1", setting(gpu_count=1), create=True)
    assert len(kube.asked("POST", CREATE)) == 1
    assert writing.status("n1")["gpuCount"] == 1
    assert [written.before for written in writing.written] == [InventoryStatus()]


async def test_a_write_without_an_answer_adds_each_history_entry_once(
    kube: FakeKube,
) -> None:
    xml = machine("n1")
    writing = Writing(kube)
    kube.fail("PATCH", STATUS, unreachable(), after=True)
    await writing.status_writer.write("n1", reading(xml), create=True)
    added = [one for one in writing.status("n1")["history"] if one["type"] == "GPUAdded"]
    assert sorted(entry["uuid"] for entry in added) == sorted(uuids(xml))


@pytest.mark.parametrize("error", [unreachable(), server_error(), too_many_requests()])
async def test_a_server_error_is_retried_after_a_pause(
    kube: FakeKube, writing: Writing, error: KubeError
) -> None:
    kube.fail("PATCH", STATUS, error, times=2)
    await writing.status_writer.write("n1", setting(gpu_count=1))
    assert writing.status("n1")["gpuCount"] == 1
    first, second, third = (one.time for one in kube.asked("PATCH", STATUS))
    assert first < second < third
    # Before each further attempt, a read shows whether the last one was successful after all.
    assert len(kube.asked("GET", "/gpuinventories/n1$")) == 2


async def test_a_server_error_is_raised_after_the_last_attempt(
    kube: FakeKube, writing: Writing
) -> None:
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
    # The next decision is written as usual.
    change = await writing.status_writer.write("n1", decide)
    assert change is not None
    assert writing.status("n1")["gpuCount"] == 11


async def test_pauses_between_attempts_are_short(kube: FakeKube, writing: Writing) -> None:
    kube.fail("PATCH", STATUS, unreachable(), times=100)
    with pytest.raises(ApiUnreachable):
        await writing.status_writer.write("n1", setting(gpu_count=1))
    times = [one.time for one in kube.asked("PATCH", STATUS)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(0 < pause <= 10 for pause in pauses)


async def test_a_forbidden_write_is_not_retried(kube: FakeKube, writing: Writing) -> None:
    kube.fail("PATCH", STATUS, forbidden())
    with pytest.raises(Forbidden):
        await writing.status_writer.write("n1", setting(gpu_count=1))
    assert len(kube.requests) == 1


async def test_an_inventory_that_a_user_deleted_is_created_again(
    kube: FakeKube, writing: Writing
) -> None:
    kube.remove(inventory_path("n1"))
    decide, decisions = counting()
    change = await writing.status_writer.write("n1", decide, create=True)
    assert change is not None
    # The decision on the deleted inventory does not count.
    assert change.status.gpu_count == 1
    assert decisions() == 2
    assert writing.gone == [("n1", "uid-1")]
    assert kube.objects[inventory_path("n1")]["metadata"]["uid"] == "uid-2"


async def test_an_inventory_that_a_user_deleted_stays_deleted_without_a_request_to_create_it(
    kube: FakeKube, writing: Writing
) -> None:
    kube.remove(inventory_path("n1"))
    assert await writing.status_writer.write("n1", setting(gpu_count=1)) is None
    assert kube.objects == {}
    assert "n1" not in writing.inventories


async def test_an_inventory_that_is_deleted_during_a_conflict_is_removed_from_the_cache(
    kube: FakeKube, writing: Writing
) -> None:
    kube.fail("PATCH", STATUS, conflict())
    kube.remove(inventory_path("n1"))
    assert await writing.status_writer.write("n1", setting(gpu_count=1)) is None
    assert writing.gone == [("n1", "uid-1")]


async def test_a_replaced_inventory_gets_only_decisions_about_any_object_of_the_name(
    kube: FakeKube, writing: Writing
) -> None:
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


async def test_a_kind_that_is_not_served_is_reported_after_the_last_attempt(kube: FakeKube) -> None:
    writing = Writing(kube)
    kube.served.discard(INVENTORY_PLURAL)
    with pytest.raises(NotFound):
        await writing.status_writer.write("n1", setting(gpu_count=1), create=True)
    assert len(kube.asked("POST", CREATE)) == ATTEMPTS


async def test_an_error_of_a_decision_reaches_its_caller_and_stops_nothing_else(
    kube: FakeKube, writing: Writing, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(status: InventoryStatus, context: StatusContext) -> StatusChange:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await writing.status_writer.write("n1", broken)
    assert any(record.exc_info for record in caplog.records)
    await writing.status_writer.write("n1", setting(gpu_count=1))
    assert writing.status("n1")["gpuCount"] == 1


async def test_an_error_reaches_the_remaining_callers_after_one_was_cancelled(
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
