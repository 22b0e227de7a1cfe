"""The resync finds changes that no event reported."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpuid_operator.engine.core.options import DEFAULT_TIMINGS
from gpuid_operator.engine.reconcile.resync import Resync
from gpuid_operator.engine.reconcile.target_pods import TargetPods
from gpuid_operator.kube.errors import ListExpired, ServerError
from tests.support.kube import FakeKube, server_error
from tests.support.objects import (
    inventory_path,
    node_path,
    pod_path,
    policy_path,
    put_inventory,
    put_node,
    put_pod,
    put_policy,
)
from tests.unit.engine.reading import ReadBench


class ResyncBench(ReadBench):
    """A resync, and what it reported."""

    def __init__(self, kube: FakeKube, **policy: Any) -> None:
        super().__init__(kube, **policy)
        self.policy_changes = 0
        self.quarantine_lists: list[int] = []
        """How many inventories were known at each list of quarantines."""
        self.slice_lists = 0
        self.gone: list[str] = []
        self.namespace_changes: list[frozenset[str]] = []
        self.enqueued: set[str] = set()
        self.resync = Resync(
            kube,
            state=self.state,
            events=self,
            target_pods=TargetPods(
                kube,
                state=self.state,
                namespaces_changed=self._namespaces_changed,
                enqueue=self.enqueued.update,
                timings=DEFAULT_TIMINGS,
            ),
            policies_changed=self._policies_changed,
            list_quarantines=self._list_quarantines,
            list_slices=self._list_slices,
        )

    def _namespaces_changed(self) -> None:
        self.namespace_changes.append(self.state.pods.forbidden)

    def _policies_changed(self) -> None:
        self.policy_changes += 1

    async def _list_quarantines(self) -> None:
        self.quarantine_lists.append(len(self.inventories))

    async def _list_slices(self) -> None:
        self.slice_lists += 1

    def inventory_deleted(self, name: str, uid: str) -> None:
        self.gone.append(name)
        self.inventories.remove(name, uid=uid)


@pytest.fixture
def bench(kube: FakeKube) -> ResyncBench:
    return ResyncBench(kube)


async def test_a_cluster_without_anything_to_read_is_logged_once(
    bench: ResyncBench, caplog: pytest.LogCaptureFixture
) -> None:
    """No inventory could say why the table is empty."""
    put_node(bench.kube, "plain", gpus=None)
    for _ in range(2):
        assert await bench.resync.run() == set()
    [line] = caplog.records
    assert (line.levelname, line.message) == ("WARNING", "found no target pod and no GPU node")
    put_node(bench.kube, "gpus")
    assert await bench.resync.run() == {"gpus"}
    assert caplog.records == [line]


async def test_everything_is_listed(bench: ResyncBench) -> None:
    put_node(bench.kube, "gpus")
    put_node(bench.kube, "plain", gpus=None)
    put_pod(bench.kube, "pod-only")
    put_inventory(bench.kube, "inventory-only")
    put_node(bench.kube, "labelled", gpus=None, labels={"nvidia.com/gpu.present": "true"})
    put_policy(bench.kube, "p", priority=3)
    names = {"gpus", "labelled", "pod-only", "inventory-only"}
    assert await bench.resync.run() == names
    assert set(bench.state.nodes) == {"gpus", "labelled", "plain"}
    assert bench.slice_lists == 1
    assert [policy.name for policy in bench.state.policies] == ["p"]
    assert bench.policy_changes == 1
    assert bench.resync.inventories_version == str(bench.kube.version)


async def test_quarantines_are_listed_before_the_gpus_that_they_may_list(
    bench: ResyncBench,
) -> None:
    put_inventory(bench.kube, "n1")
    await bench.resync.run()
    assert bench.quarantine_lists == [0]
    await bench.resync.catch_up()
    assert bench.quarantine_lists == [0, 1]


async def test_pods_are_listed_before_nodes(bench: ResyncBench) -> None:
    put_node(bench.kube, "n1")
    put_pod(bench.kube, "n1")
    await bench.resync.run()
    paths = [request.path for request in bench.kube.requests]
    assert paths.index("/api/v1/namespaces/gpu-operator/pods") < paths.index("/api/v1/nodes")


async def test_more_objects_than_a_page_has_are_all_found(bench: ResyncBench) -> None:
    names = {f"n{number:03}" for number in range(260)}
    for name in names:
        put_node(bench.kube, name)
        put_inventory(bench.kube, name)
    assert await bench.resync.run() == names
    assert len(bench.kube.asked("GET", "/nodes$")) == 6
    assert {cached.name for cached in bench.inventories} == names


async def test_what_vanished_is_forgotten(bench: ResyncBench) -> None:
    put_node(bench.kube, "n1")
    put_pod(bench.kube, "n1")
    put_inventory(bench.kube, "n1")
    put_policy(bench.kube, "p")
    await bench.resync.run()
    for path in (
        node_path("n1"),
        pod_path("plugin-n1"),
        inventory_path("n1"),
        policy_path("p"),
    ):
        bench.kube.remove(path)
    assert await bench.resync.run() == set()
    assert not list(bench.state.nodes)
    assert bench.state.pods.find("n1") is None
    assert list(bench.state.policies) == []
    assert bench.gone == ["n1"]
    assert bench.policy_changes == 2


async def test_an_inventory_that_was_made_again_is_the_new_one(bench: ResyncBench) -> None:
    put_inventory(bench.kube, "n1")
    await bench.resync.run()
    bench.kube.remove(inventory_path("n1"))
    uid = put_inventory(bench.kube, "n1")["metadata"]["uid"]
    await bench.resync.run()
    cached = bench.inventories.get("n1")
    assert cached is not None
    assert cached.uid == uid
    assert bench.gone == []


class TestLatePage:
    """A page of a list can arrive after the event of a change that it does not contain."""

    async def test_pods(self, bench: ResyncBench) -> None:
        bodies = [put_pod(bench.kube, f"n{number:03}") for number in range(260)]
        for body in bodies[257:]:
            bench.see_pod(body)
        run, second = await self.until_second_page(bench, "/pods$")
        bench.see_pod(put_pod(bench.kube, "n258", number=2))
        bench.see_pod(bodies[259], deleted=True)
        bench.see_pod(put_pod(bench.kube, "n260"))
        second.set()
        await run
        assert self.read_in(bench, "n257") == "containerd://plugin-n257-1"
        assert self.read_in(bench, "n258") == "containerd://plugin-n258-2"
        assert self.read_in(bench, "n259") is None
        assert self.read_in(bench, "n260") == "containerd://plugin-n260-1"

    async def test_nodes(self, bench: ResyncBench) -> None:
        for number in range(103):
            put_node(bench.kube, f"n{number:03}")
        await asyncio.sleep(10)
        bench.see_node(put_node(bench.kube, "replaced"))
        # One node is known, so two pages of metadata come first.
        run, second = await self.until_second_page(bench, "/nodes$", after=3)
        await asyncio.sleep(10)
        for name in ("n101", "replaced"):
            bench.kube.remove(node_path(name))
            bench.see_node(put_node(bench.kube, name, boot="later"))
        await asyncio.sleep(10)
        second.set()
        await run
        known = {name: bench.state.nodes[name] for name in ("n000", "n102", "n101", "replaced")}
        assert known["n000"].fetched == known["n102"].fetched == 10
        assert known["n101"].fetched == known["replaced"].fetched == 20
        assert known["n101"].facts.boot_id == known["replaced"].facts.boot_id == "later"

    async def test_a_node_that_was_fetched_after_the_list_began_stays(
        self, bench: ResyncBench
    ) -> None:
        for number in range(102):
            put_node(bench.kube, f"n{number:03}")
        bench.see_node(put_node(bench.kube, "gone"))
        bench.see_node(put_node(bench.kube, "replaced"))
        for name in ("gone", "replaced"):
            bench.kube.remove(node_path(name))
        run, second = await self.until_second_page(bench, "/nodes$")
        await asyncio.sleep(10)
        bench.see_node(put_node(bench.kube, "replaced"))
        second.set()
        await run
        assert "gone" not in bench.state.nodes
        assert "replaced" in bench.state.nodes

    async def test_a_node_that_was_found_gone_meanwhile_does_not_come_back(
        self, bench: ResyncBench
    ) -> None:
        for number in range(103):
            put_node(bench.kube, f"n{number:03}")
        run, second = await self.until_second_page(bench, "/nodes$")
        await asyncio.sleep(10)
        for name in ("n101", "n102"):
            bench.state.forget_node(name)
        await asyncio.sleep(10)
        bench.see_node(put_node(bench.kube, "n102", boot="later"))
        second.set()
        await run
        assert "n101" not in bench.state.nodes
        assert bench.state.nodes["n102"].facts.boot_id == "later"
        # The next list finds it, if the Node is there.
        await bench.resync.run()
        assert "n101" in bench.state.nodes

    async def until_second_page(
        self, bench: ResyncBench, path: str, *, after: int = 1
    ) -> tuple[asyncio.Task[set[str]], asyncio.Event]:
        """Start a resync up to the request for the page after so many, which waits for the
        event."""
        second = asyncio.Event()
        fault = bench.kube.fail("GET", path, until=second, skip=after)
        run = asyncio.create_task(bench.resync.run())
        await fault.met.wait()
        return run, second

    def read_in(self, bench: ResyncBench, node: str) -> str | None:
        found = bench.state.pods.find(node)
        return found[1].container_id if found else None


class TestExpiredList:
    """A list starts again if the server dropped its snapshot between two pages."""

    def fill(self, kube: FakeKube) -> None:
        for number in range(101):
            put_node(kube, f"n{number:03}")

    async def test_the_list_starts_again(self, bench: ResyncBench) -> None:
        self.fill(bench.kube)
        fault = bench.kube.fail("GET", "/nodes$", until=asyncio.Event())
        second = bench.kube.fail("GET", "/nodes$", until=asyncio.Event())
        run = asyncio.create_task(bench.resync.run())
        assert fault.until is not None
        assert second.until is not None
        fault.until.set()
        await second.met.wait()
        bench.kube.expire()
        second.until.set()
        assert len(await run) == 101

    async def test_three_times_and_no_more(self, bench: ResyncBench) -> None:
        bench.kube.fail("GET", "/nodes$", ListExpired("too slow"), times=3)
        with pytest.raises(ListExpired):
            await bench.resync.run()
        assert len(bench.kube.asked("GET", "/nodes$")) == 3

    async def test_twice_is_no_failure(self, bench: ResyncBench) -> None:
        put_node(bench.kube, "n1")
        bench.kube.fail("GET", "/nodes$", ListExpired("too slow"), times=2)
        assert await bench.resync.run() == {"n1"}


async def test_an_error_of_the_server_reaches_the_caller(bench: ResyncBench) -> None:
    bench.kube.fail("GET", "/pods$", server_error())
    with pytest.raises(ServerError):
        await bench.resync.run()


class TestCatchUp:
    """A list after the start of a watch finds what was deleted before it."""

    async def test_nothing_changed(self, bench: ResyncBench) -> None:
        put_pod(bench.kube, "n1")
        await bench.resync.run()
        assert await bench.resync.catch_up() == set()

    async def test_a_deleted_pod_changes_its_node(self, bench: ResyncBench) -> None:
        put_pod(bench.kube, "n1")
        put_pod(bench.kube, "n2")
        await bench.resync.run()
        bench.kube.remove(pod_path("plugin-n1"))
        assert await bench.resync.catch_up() == {"n1"}

    async def test_a_deleted_policy_changes_all_nodes(self, bench: ResyncBench) -> None:
        put_pod(bench.kube, "n1")
        put_inventory(bench.kube, "n2")
        put_policy(bench.kube, "p")
        await bench.resync.run()
        bench.kube.remove(policy_path("p"))
        assert await bench.resync.catch_up() == {"n1", "n2"}
        assert bench.policy_changes == 2


class TestInvalidPolicy:
    """The operator skips the nodes of a policy whose spec is out of bounds."""

    BAD = {"priority": "high"}

    async def test_its_inventories_are_skipped(
        self, bench: ResyncBench, caplog: pytest.LogCaptureFixture
    ) -> None:
        put_policy(bench.kube, "p")
        put_inventory(bench.kube, "n1", status={"state": "Present", "policy": "p"})
        await bench.resync.run()
        assert not bench.state.skip_reason("n1")
        bench.kube.change(policy_path("p"), lambda body: body["spec"].update(self.BAD))
        await bench.resync.run()
        assert bench.state.skip_reason("n1")
        assert list(bench.state.policies) == []
        (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert "priority" in str(line.__dict__)


class TestOldList:
    """A server that lags behind, or a cache in front of it, answers a list from an old version."""

    async def test_it_does_not_show_that_anything_is_gone(self, bench: ResyncBench) -> None:
        put_policy(bench.kube, "fleet")
        put_node(bench.kube, "n1")
        put_pod(bench.kube, "n1")
        put_inventory(bench.kube, "n1")
        await bench.resync.run()
        for collection in ("gpuinventorypolicies", "pods", "nodes", "gpuinventories"):
            bench.kube.fail("GET", f"/{collection}$", back=1000)
        with pytest.raises(ListExpired, match="restart the operator"):
            await bench.resync.run()
        await bench.resync.run()
        assert bench.state.policies.get("fleet") is not None
        assert "n1" in bench.state.pods
        assert "n1" in bench.state.nodes
        assert bench.gone == []
        assert bench.policy_changes == 1

    async def test_it_is_taken_by_an_operator_that_knows_nothing(self, bench: ResyncBench) -> None:
        put_policy(bench.kube, "fleet")
        bench.kube.fail("GET", "/gpuinventorypolicies$", back=1000)
        await bench.resync.run()
        assert bench.state.policies.get("fleet") is None
