"""The operator deletes inventories of departed nodes that have expired."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from gpuid_operator.api.meta import MANAGED_BY_LABEL, MANAGER
from gpuid_operator.engine.reconcile.expiry import InventoryExpiry
from gpuid_operator.engine.state.node_view import NodeView
from tests.support import clock
from tests.support.clock import START
from tests.support.kube import FakeKube, server_error
from tests.support.objects import (
    UNKNOWN_SINK,
    inventory_path,
    put_inventory,
    put_node,
    put_policy,
)
from tests.unit.engine.test_resync import ResyncBench

OURS = {MANAGED_BY_LABEL: MANAGER}
RETENTION = timedelta(hours=720)
NOTHING = {"matchLabels": {"pool": "none"}}


@pytest.fixture
def bench(kube: FakeKube) -> ResyncBench:
    return ResyncBench(kube, retention=RETENTION)


def departed(
    bench: ResyncBench,
    name: str,
    *,
    ago: timedelta = RETENTION,
    pending: int | None = 0,
    labels: dict[str, str] = OURS,
    spec: dict[str, Any] | None = None,
    **status: Any,
) -> None:
    """The inventory of a node that left so long ago; `pending=None`: its sink has no cursor."""
    sink = {"name": "stdout", "type": "stdout", "deliveredSequence": 5, "pending": pending}
    changed = (START - ago).isoformat().replace("+00:00", "Z")
    given: dict[str, Any] = {
        "state": "Departed",
        "sequence": 5,
        "lastChangeTime": changed,
        "sinks": [] if pending is None else [sink],
    }
    put_inventory(bench.kube, name, status=given | status, labels=labels, spec=spec)


def expiry(bench: ResyncBench, *, keep: int = 5000) -> InventoryExpiry:
    return InventoryExpiry(
        bench.kube, state=bench.state, status_writer=bench.writer, clock=clock.now, keep=keep
    )


async def left(bench: ResyncBench, *, keep: int = 5000) -> set[str]:
    """The inventories that are left after a resync and an expiry."""
    await bench.resync.run()
    before = {cached.name for cached in bench.inventories}
    deleted = await expiry(bench, keep=keep).run()
    cached = {cached.name for cached in bench.inventories}
    on_server = {path.rpartition("/")[2] for path in bench.kube.objects if "gpuinv" in path}
    assert cached == before - set(deleted)
    return on_server


async def test_a_node_that_returns_during_a_run_is_not_gone(bench: ResyncBench) -> None:
    departed(bench, "n1", ago=2 * RETENTION)
    departed(bench, "n2")

    def returns() -> None:
        assert "n1" not in bench.inventories
        put_inventory(bench.kube, "n1", status={"state": "Present"})
        bench.inventories.put_object(bench.kube.objects[inventory_path("n1")])

    bench.kube.fail("DELETE", "/n2$", meanwhile=returns)
    await bench.resync.run()
    assert await expiry(bench).run() == ["n2"]


async def test_an_old_one_that_every_sink_has_is_deleted(bench: ResyncBench) -> None:
    departed(bench, "n1")
    assert await left(bench) == set()
    (request,) = bench.kube.asked("DELETE", "/n1$")
    assert set(request.body["preconditions"]) == {"uid", "resourceVersion"}


@pytest.mark.parametrize(
    "fields",
    [
        {"ago": RETENTION - timedelta(minutes=1)},
        {"pending": 1},
        {"pending": None},
        {"labels": {}},
        {"state": "Present"},
        {"lastChangeTime": None},
    ],
    ids=["young", "undelivered", "no cursor", "of a user", "present", "no time"],
)
async def test_it_is_kept(bench: ResyncBench, fields: dict[str, Any]) -> None:
    departed(bench, "n1", **fields)
    assert await left(bench) == {"n1"}


@pytest.mark.parametrize("hours", [-24, 24 * 365])
async def test_nothing_is_deleted_while_the_clock_differs_from_the_servers(
    bench: ResyncBench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hours: int,
) -> None:
    departed(bench, "n1", ago=timedelta(days=1))
    departed(bench, "n2", ago=RETENTION * 2)
    with monkeypatch.context() as patch:
        patch.setattr(clock, "START", START + timedelta(hours=hours))
        assert await left(bench) == {"n1", "n2"}
    assert "clock differs from the API server's" in caplog.text
    assert await left(bench) == {"n1"}


@pytest.mark.parametrize(
    ("ago", "last_read"),
    [
        (-timedelta(days=3650), START - timedelta(days=1)),
        (-timedelta(days=3650), START + timedelta(days=3650)),
        (timedelta(days=3650), START - timedelta(days=1)),
    ],
    ids=["departed in the future", "read in the future, too", "departed before the last read"],
)
async def test_the_retention_begins_now_where_the_clock_was_wrong(
    bench: ResyncBench, monkeypatch: pytest.MonkeyPatch, ago: timedelta, last_read: datetime
) -> None:
    departed(bench, "n1", ago=ago, lastReadTime=last_read.isoformat().replace("+00:00", "Z"))
    assert await left(bench) == {"n1"}
    changed = bench.kube.objects[inventory_path("n1")]["status"]["lastChangeTime"]
    assert datetime.fromisoformat(changed) == START
    await asyncio.sleep((RETENTION - timedelta(minutes=1)).total_seconds())
    writes = len(bench.kube.asked("PATCH", "/n1/status$"))
    assert await left(bench) == {"n1"}
    assert len(bench.kube.asked("PATCH", "/n1/status$")) == writes == 1
    await asyncio.sleep(120)
    assert await left(bench) == set()


async def test_one_whose_node_is_back_is_kept(bench: ResyncBench) -> None:
    departed(bench, "n1")
    put_node(bench.kube, "n1")
    assert await left(bench) == {"n1"}


async def test_one_whose_policy_cannot_be_understood_is_kept(bench: ResyncBench) -> None:
    put_policy(bench.kube, "p", priority="high")
    departed(bench, "n1", policy="p")
    assert inventory_path("n1") in bench.kube.objects
    await left(bench)
    assert inventory_path("n1") in bench.kube.objects


async def test_one_with_a_sink_of_an_unknown_type_is_kept_and_stops_no_other(
    bench: ResyncBench,
) -> None:
    departed(bench, "n1", spec={"sinks": [UNKNOWN_SINK]})
    put_policy(bench.kube, "p", sinks=[UNKNOWN_SINK], priority=1, nodeSelector=NOTHING)
    departed(bench, "n2", policy="p")
    departed(bench, "n3")
    assert await left(bench) == {"n1", "n2", "p"}


async def test_an_unexpected_error_about_one_stops_no_other(
    bench: ResyncBench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    departed(bench, "n1")
    departed(bench, "n2")
    view = bench.state.view

    def fails(name: str) -> NodeView:
        if name == "n1":
            raise ZeroDivisionError
        return view(name)

    await bench.resync.run()
    monkeypatch.setattr(bench.state, "view", fails)
    assert await expiry(bench).run() == ["n2"]
    (record,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert record.exc_info


async def test_its_policy_says_how_long_it_is_kept(bench: ResyncBench) -> None:
    put_policy(bench.kube, "p", retention="1h")
    departed(bench, "n1", ago=timedelta(hours=1), policy="p")
    departed(bench, "n2", ago=timedelta(hours=1))
    await left(bench)
    assert inventory_path("n1") not in bench.kube.objects
    assert inventory_path("n2") in bench.kube.objects


async def test_of_too_many_the_oldest_go_first(bench: ResyncBench) -> None:
    for number in range(5):
        departed(bench, f"n{number}", ago=timedelta(hours=number))
    assert await left(bench, keep=2) == {"n0", "n1"}


async def test_of_too_many_those_that_are_undelivered_stay(bench: ResyncBench) -> None:
    departed(bench, "old", ago=timedelta(hours=3), pending=1)
    departed(bench, "middle", ago=timedelta(hours=2))
    departed(bench, "new", ago=timedelta(hours=1))
    assert await left(bench, keep=1) == {"old", "new"}


async def test_one_that_another_changed_meanwhile_is_left_for_the_next_time(
    bench: ResyncBench,
) -> None:
    departed(bench, "n1")
    departed(bench, "n2")
    departed(bench, "n3")
    await bench.resync.run()
    bench.kube.change(
        inventory_path("n1"), lambda body: body["metadata"]["labels"].update(note="keep")
    )
    bench.kube.remove(inventory_path("n2"))
    assert await expiry(bench).run() == ["n3"]
    assert inventory_path("n1") in bench.kube.objects


async def test_an_error_of_the_server_ends_the_run(
    bench: ResyncBench, caplog: pytest.LogCaptureFixture
) -> None:
    departed(bench, "n1", ago=RETENTION * 2)
    departed(bench, "n2")
    await bench.resync.run()
    bench.kube.fail("DELETE", "/n1$", server_error())
    assert await expiry(bench).run() == []
    assert len(bench.kube.asked("DELETE", "")) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert await expiry(bench).run() == ["n1", "n2"]
