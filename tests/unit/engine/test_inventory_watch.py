"""The inventory watch reports changes of other writers, not those of this process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from gpuid_operator.api.meta import REQUESTED_AT
from gpuid_operator.engine.reconcile.inventory_watch import InventoryWatch
from tests.support.engines import until
from tests.support.kube import FakeKube, server_error
from tests.support.objects import inventory_path, put_inventory
from tests.support.smi_fixtures import machine
from tests.unit.engine.test_resync import ResyncBench


class WatchBench(ResyncBench):
    """A watch, and what it reported."""

    def __init__(self, kube: FakeKube) -> None:
        super().__init__(kube)
        self.watch = InventoryWatch(
            kube,
            inventories=self.inventories,
            status_writer=self.writer,
            resync=self.resync,
            events=self,
        )
        self.tasks: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        await self.resync.run()
        self.tasks += [asyncio.ensure_future(loop()) for loop in self.watch.loops()]
        await self.watching()

    async def watching(self, times: int = 1) -> None:
        """Until so many watches were opened."""
        await until(lambda: len(self.kube.asked("WATCH", "gpuinventories")) >= times)

    def ask(self, token: str) -> None:
        """A user asks for a read."""
        self.kube.change(
            inventory_path("n1"),
            lambda body: body["metadata"]["annotations"].update({REQUESTED_AT: token}),
        )

    def request(self) -> str | None:
        cached = self.inventories.get("n1")
        return cached.request if cached else None

    def read(self) -> int:
        """How often the inventory was read whole."""
        return len(self.kube.asked("GET", "/gpuinventories/n1$"))


@pytest.fixture
async def bench(kube: FakeKube) -> AsyncIterator[WatchBench]:
    bench = WatchBench(kube)
    bench.prints(machine("n1"))
    yield bench
    for task in bench.tasks:
        task.cancel()
    await asyncio.gather(*bench.tasks, return_exceptions=True)


async def test_a_change_of_another_writer_is_fetched(bench: WatchBench) -> None:
    put_inventory(bench.kube, "n1")
    await bench.start()
    bench.ask("token-1")
    await until(lambda: bench.request() == "token-1")
    assert bench.read() == 1


async def test_an_inventory_that_another_writer_created_is_fetched(bench: WatchBench) -> None:
    await bench.start()
    put_inventory(bench.kube, "n1")
    await until(lambda: "n1" in bench.inventories)


async def test_own_writes_are_not_fetched(bench: WatchBench) -> None:
    await bench.start()
    await bench.node_with_pod()
    await bench.process("n1")
    await until(lambda: not bench.writer.is_writing("n1"))
    # What another makes shows that the events before it were handled.
    put_inventory(bench.kube, "n2")
    await until(lambda: "n2" in bench.inventories)
    assert bench.read() == 0


async def test_events_wait_for_a_write_under_way(bench: WatchBench) -> None:
    put_inventory(bench.kube, "n1")
    await bench.start()
    await bench.node_with_pod()
    hold = bench.kube.fail("PATCH", "/n1/status$", until=asyncio.Event())
    process = asyncio.create_task(bench.process("n1"))
    await hold.met.wait()
    bench.ask("token-1")
    await asyncio.sleep(5)
    assert bench.read() == 0
    assert hold.until is not None
    hold.until.set()
    await process
    # The write met a conflict and read the object, so the watch need not.
    await until(lambda: bench.request() == "token-1")
    assert bench.read() == 1


async def test_a_deletion_is_reported(bench: WatchBench) -> None:
    put_inventory(bench.kube, "n1")
    await bench.start()
    bench.kube.remove(inventory_path("n1"))
    await until(lambda: bench.gone == ["n1"])
    assert bench.read() == 0


async def test_a_deletion_before_the_fetch_is_reported_once(bench: WatchBench) -> None:
    put_inventory(bench.kube, "n1")
    await bench.start()
    bench.ask("token-1")
    bench.kube.remove(inventory_path("n1"))
    await until(lambda: bench.read() == 1)
    assert bench.gone == ["n1"]


async def test_a_failed_fetch_is_repeated(bench: WatchBench) -> None:
    put_inventory(bench.kube, "n1")
    await bench.start()
    bench.kube.fail("GET", "/n1$", server_error(), times=2)
    bench.ask("token-1")
    await until(lambda: bench.request() == "token-1")
    times = [request.time for request in bench.kube.asked("GET", "/n1$")]
    assert len(times) == 3
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(times))


async def test_an_expired_version_causes_a_new_list(bench: WatchBench) -> None:
    put_inventory(bench.kube, "n1")
    await bench.start()
    bench.kube.break_watches()
    await until(lambda: bench.kube.broken_watches == 1)
    bench.ask("token-1")
    bench.kube.expire()
    await until(lambda: bench.request() == "token-1")
    assert len(bench.kube.asked("GET", "/gpuinventories$")) == 2
    # From the new version on it is watched.
    bench.ask("token-2")
    await until(lambda: bench.request() == "token-2")


async def test_a_disconnected_watch_continues_from_its_last_version(bench: WatchBench) -> None:
    put_inventory(bench.kube, "n1")
    await bench.start()
    bench.kube.break_watches()
    bench.ask("token-1")
    await until(lambda: bench.request() == "token-1")
    assert len(bench.kube.asked("GET", "/gpuinventories$")) == 1


async def test_a_watch_that_keeps_failing_backs_off(
    bench: WatchBench, caplog: pytest.LogCaptureFixture
) -> None:
    put_inventory(bench.kube, "n1")
    await bench.start()
    bench.kube.fail("WATCH", "gpuinventories", server_error(), times=8)
    bench.kube.break_watches()
    await bench.watching(10)
    times = [request.time for request in bench.kube.asked("WATCH", "gpuinventories")]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times[1:])]
    for pause, bound in zip(pauses, (2, 4, 8, 16, 30, 30, 30), strict=False):
        assert bound / 2 <= pause <= bound
    # The first is nothing to speak of: servers are restarted.
    levels = [record.levelname for record in caplog.records]
    assert set(levels) == {"WARNING"}
    bench.ask("token-1")
    await until(lambda: bench.request() == "token-1")


async def test_a_kind_that_is_not_served_for_a_moment_is_reported_and_followed_again(
    bench: WatchBench,
) -> None:
    put_inventory(bench.kube, "n1")
    put_inventory(bench.kube, "n2")
    await bench.start()
    served, bench.kube.served = bench.kube.served, set()
    bench.kube.break_watches()
    await bench.watch.kinds_gone.wait()
    # It reports each attempt, so the leader can clear the event after each.
    bench.watch.kinds_gone.clear()
    await bench.watch.kinds_gone.wait()
    bench.kube.remove(inventory_path("n2"))
    bench.kube.served = served
    await until(lambda: bench.gone == ["n2"])
    bench.ask("token-1")
    await until(lambda: bench.request() == "token-1")


async def test_an_event_ends_the_back_off_of_the_watch(bench: WatchBench) -> None:
    put_inventory(bench.kube, "n1")
    await bench.start()
    bench.kube.fail("WATCH", "gpuinventories", server_error(), times=6)
    bench.kube.break_watches()
    await bench.watching(8)
    bench.ask("token-1")
    await until(lambda: bench.request() == "token-1")
    broken = asyncio.get_running_loop().time()
    bench.kube.break_watches()
    await bench.watching(9)
    assert bench.kube.asked("WATCH", "gpuinventories")[-1].time - broken <= 1
