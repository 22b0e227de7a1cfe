"""The leader: the order of its steps, restarts of the watch, and its end with the CRDs."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from gpuid_operator.api.meta import INVENTORY_PLURAL, POLICY_PLURAL
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.credentials import Credentials
from gpuid_operator.operator.health import Health
from gpuid_operator.operator.leader import STOP_WITHIN, Leader
from tests.support.kube import FakeKube, forbidden

STEPS: list[str] = []


class Quarantines:
    """Quarantines that the API server serves, or not."""

    def __init__(self) -> None:
        self.available = True
        self.lists = 0

    async def list_all(self) -> None:
        self.lists += 1

    def quarantine_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        pass


class Rights:
    """What may be watched."""

    def __init__(self) -> None:
        self.checks = 0

    async def check_rights(self) -> None:
        self.checks += 1


class Work:
    """Work that only notes its steps; `refuses` is the number of starts that fail."""

    refuses = 0

    def __init__(self) -> None:
        self.sources: tuple[PodSelector, ...] = (PodSelector("gpu-operator", "app=plugin"),)
        self.sources_changed = asyncio.Event()
        self.kinds_gone = asyncio.Event()
        self.quarantines = Quarantines()
        self.pod_events = Rights()

    async def start(self) -> None:
        if Work.refuses:
            Work.refuses -= 1
            raise forbidden()
        STEPS.append("start")

    async def stop(self, *, within: float) -> None:
        assert within == STOP_WITHIN
        STEPS.append("stop")

    def watch_begins(self) -> None:
        STEPS.append("watch")

    def count(self) -> None:
        pass

    def pod_event(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> None:
        pass

    def policy_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        pass


class Watch:
    """A watch that beats once, and ends when the test says so."""

    made: list[Watch]
    tasks = 0

    def __init__(
        self, *, sources: Any, receiver: Any, credentials: Any, beat: Any, quarantines: Any
    ) -> None:
        self.sources = sources
        self.quarantines = quarantines
        self.receiver = receiver
        self.authorization = credentials().authorization
        self.end = asyncio.Event()
        self.cancelled = False
        beat()
        Watch.made.append(self)

    async def run(self) -> None:
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


class Cluster(FakeKube):
    async def credentials(self) -> Credentials:
        return Credentials(server="https://kube", authorization="Bearer a")


@pytest.fixture
def kube() -> Iterator[Cluster]:
    STEPS.clear()
    Watch.made = []
    Work.refuses = 0
    yield Cluster()


class Running:
    """A leader whose steps can be awaited."""

    def __init__(self, kube: Cluster) -> None:
        self.health = Health(now=asyncio.get_running_loop().time)
        self.leader = Leader(kube, self.health, watch=Watch)
        self.works: list[Work] = []
        self.task = asyncio.create_task(self.leader.run(self._make))

    def _make(self) -> Work:
        self.works.append(Work())
        return self.works[-1]

    async def watches(self, number: int) -> Watch:
        """The watch of this number, once it runs."""
        while len(Watch.made) < number:  # noqa: ASYNC110 - under the jumping clock
            await asyncio.sleep(0.1)
        await asyncio.sleep(0)
        assert len(Watch.made) == number
        return Watch.made[-1]

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def test_the_work_starts_before_the_watch_and_stops_at_the_end(kube: Cluster) -> None:
    running = Running(kube)
    watch = await running.watches(1)
    [work] = running.works
    assert watch.receiver is work and watch.sources == work.sources
    assert watch.authorization == "Bearer a"
    assert running.leader.watch is watch
    assert running.leader.work is work
    assert running.health.ready == (True, "leading")
    await asyncio.sleep(121)
    assert "watch: no heartbeat" in running.health.dead()[0]
    await running.stop()
    assert STEPS == ["start", "watch", "stop"]
    assert watch.cancelled and running.leader.watch is None
    assert running.leader.work is None
    assert running.health.dead() == []


async def test_the_collector_leaves_alone_what_the_start_has_loaded(kube: Cluster) -> None:
    """As long as the work needs it: what is in cycles would stay for ever."""
    running = Running(kube)
    await running.watches(1)
    assert gc.get_freeze_count() > 0
    await running.stop()
    assert gc.get_freeze_count() == 0


async def test_quarantines_are_watched_where_they_are_available(kube: Cluster) -> None:
    running = Running(kube)
    first = await running.watches(1)
    [work] = running.works
    assert first.quarantines is work.quarantines
    work.quarantines.available = False
    work.sources_changed.set()
    second = await running.watches(2)
    assert second.quarantines is None
    assert work.quarantines.lists == 0
    await running.stop()


async def test_a_watch_that_ended_is_restarted_for_the_kinds_that_are_there_then(
    kube: Cluster,
) -> None:
    running = Running(kube)
    first = await running.watches(1)
    [work] = running.works
    first.end.set()
    await running.watches(2)
    assert work.quarantines.lists == 1
    await running.stop()


async def test_it_waits_for_the_crds_before_it_starts_anything(kube: Cluster) -> None:
    kube.served.clear()
    running = Running(kube)
    await asyncio.sleep(60)
    assert STEPS == [] and not running.health.ready[0]
    kube.served.update({INVENTORY_PLURAL, POLICY_PLURAL})
    await running.watches(1)
    assert STEPS == ["start", "watch"]
    await running.stop()


async def test_a_start_that_fails_is_tried_again_and_the_leader_is_not_ready(kube: Cluster) -> None:
    Work.refuses = 2
    running = Running(kube)
    await asyncio.sleep(0.5)
    assert running.health.ready == (False, "failed to list the cluster: forbidden")
    assert running.leader.work is None
    await running.watches(1)
    assert len(running.works) == 1 and STEPS == ["start", "watch"]
    await running.stop()


async def test_when_the_crds_go_the_work_is_stopped_and_another_starts_once_they_are_back(
    kube: Cluster,
) -> None:
    running = Running(kube)
    watch = await running.watches(1)
    kube.served.clear()
    running.works[0].kinds_gone.set()
    await asyncio.sleep(10)
    assert watch.cancelled
    assert STEPS == ["start", "watch", "stop"]
    assert running.health.ready[1].startswith("waiting for the CRDs: ")
    kube.served.update({INVENTORY_PLURAL, POLICY_PLURAL})
    await running.watches(2)
    assert len(running.works) == 2
    assert STEPS == ["start", "watch", "stop", "start", "watch"]
    assert running.health.ready == (True, "leading")
    await running.stop()


async def test_crds_that_are_back_at_once_restart_the_watch_once_beside_the_same_work(
    kube: Cluster,
) -> None:
    running = Running(kube)
    first = await running.watches(1)
    [work] = running.works
    work.kinds_gone.set()
    second = await running.watches(2)
    assert first.cancelled
    await asyncio.sleep(600)
    assert not second.cancelled and len(Watch.made) == 2
    assert STEPS == ["start", "watch", "watch"]
    await running.stop()


async def test_a_watch_that_ends_restarts_with_growing_pauses_beside_the_same_work(
    kube: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(kube)
    for number in range(1, 8):
        (await running.watches(number)).end.set()
    await running.watches(8)
    pauses = [record.__dict__["fields"]["seconds"] for record in caplog.records]
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert {record.message for record in caplog.records} == {"watch ended; restarting"}
    # One that is not permitted any more would end each watch.
    assert running.works[0].pod_events.checks == 7
    assert (STEPS[0], set(STEPS[1:]), len(STEPS)) == ("start", {"watch"}, 9)
    await running.stop()


async def test_a_watch_that_lasted_a_minute_starts_the_pauses_over(
    kube: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(kube)
    for number in range(1, 4):
        (await running.watches(number)).end.set()
    watch = await running.watches(4)
    await asyncio.sleep(61)
    watch.end.set()
    await running.watches(5)
    pauses = [record.__dict__["fields"]["seconds"] for record in caplog.records]
    assert pauses == [1, 2, 4, 1]
    await running.stop()


async def test_other_pods_are_watched_at_once(kube: Cluster) -> None:
    running = Running(kube)
    first = await running.watches(1)
    [work] = running.works
    work.sources = (*work.sources, PodSelector("checks", "app=driver"))
    before = asyncio.get_running_loop().time()
    work.sources_changed.set()
    second = await running.watches(2)
    assert first.cancelled
    assert second.sources == work.sources
    assert asyncio.get_running_loop().time() - before < 1
    assert not work.sources_changed.is_set()
    await running.stop()


async def test_an_error_of_the_watch_ends_the_leader_and_the_work_is_stopped(
    kube: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Watch) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Watch, "run", fail)
    running = Running(kube)
    with pytest.raises(ValueError, match="a bug"):
        await running.task
    assert STEPS == ["start", "watch", "stop"]
