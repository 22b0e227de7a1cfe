"""A resync lists the metadata of Nodes, and fetches whole only those that changed in a way that the
operator uses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from gpuid_operator.engine.core.idle_gate import IdleGate
from gpuid_operator.engine.reconcile.node_list import NodeList
from gpuid_operator.engine.writing.node_labels import NodeLabeller
from gpuid_operator.kube.client import ONLY_METADATA_LIST
from gpuid_operator.kube.errors import ServerError
from tests.support.kube import FakeKube, server_error
from tests.support.objects import node_path, put_inventory, put_node, put_pod
from tests.unit.engine.reading import ReadBench

STATUS = {"state": "Present", "gpus": [{"serial": "s1", "chassisSerial": "c1"}]}


class Bench(ReadBench):
    """A list of Nodes, and what it requested."""

    def __init__(self, kube: FakeKube) -> None:
        super().__init__(kube)
        self.nodes = NodeList(kube, state=self.state)

    async def read_nodes(self, *names: str) -> None:
        """Nodes that were read whole long after they changed, each with a pod and an inventory."""
        for name in names:
            put_node(self.kube, name, labels={"zone": "a"})
            self.see_pod(put_pod(self.kube, name))
            self.inventory_changed(put_inventory(self.kube, name, status=STATUS))
        await asyncio.sleep(120)
        await self.kube.request("GET", "/api/v1/nodes")  # tells the time of the server
        await self.nodes.run()
        await asyncio.sleep(600)
        self.kube.requests.clear()

    def edit(self, name: str, edit: Callable[[dict[str, Any]], object], *, by: str) -> None:
        self.kube.change(node_path(name), edit, manager=by)

    def beat(self, name: str = "n1") -> None:
        """A heartbeat of the kubelet, which has set the whole status."""

        def edit(body: dict[str, Any]) -> None:
            now = asyncio.get_running_loop().time()
            body["status"]["conditions"] = [{"type": "Ready", "lastHeartbeatTime": str(now)}]

        self.edit(name, edit, by="kubectl")

    @property
    def fetched(self) -> list[str]:
        """The names of the Nodes that were fetched one by one."""
        paths = [request.path for request in self.kube.asked("GET", "/nodes/")]
        return [path.rpartition("/")[2] for path in paths]

    @property
    def lists(self) -> int:
        return len(self.kube.asked("GET", "/nodes$"))


def _set_taints(taints: list[dict[str, str]], body: dict[str, Any]) -> None:
    body["spec"]["taints"] = taints


@pytest.fixture
async def bench(kube: FakeKube) -> Bench:
    bench = Bench(kube)
    await bench.read_nodes("n1", "n2")
    return bench


async def test_nothing_is_fetched_while_nothing_changes(bench: Bench) -> None:
    await bench.nodes.run()
    assert bench.fetched == []
    (request,) = bench.kube.requests
    assert request.accept == ONLY_METADATA_LIST


async def test_a_heartbeat_is_no_change(bench: Bench) -> None:
    for _ in range(3):
        bench.beat()
        await bench.nodes.run()
        await asyncio.sleep(600)
    assert bench.fetched == []
    assert bench.state.nodes["n1"].facts.boot_id == "boot-1"


async def test_labels_come_with_the_metadata(bench: Bench) -> None:
    bench.edit("n1", lambda body: body["metadata"].update(labels={"zone": "b"}), by="helm")
    await bench.nodes.run()
    assert bench.fetched == []
    assert bench.state.nodes["n1"].facts.labels == {"zone": "b"}


@pytest.mark.parametrize("by", ["kubectl", "cloud"])
@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        (lambda body: body["spec"].update(providerID="aws:///zone/i-2"), "provider_id"),
        (lambda body: body["spec"].pop("providerID"), "provider_id"),
        (lambda body: body["spec"].update(taints=[{"key": "a"}]), "taints"),
        (lambda body: body["status"]["capacity"].pop("nvidia.com/gpu"), "gpu_capacity"),
    ],
    ids=["providerID", "no providerID", "taints", "no capacity"],
)
async def test_a_change_is_seen(
    bench: Bench, edit: Callable[[dict[str, Any]], object], changed: str, by: str
) -> None:
    before = getattr(bench.state.nodes["n1"].facts, changed)
    bench.edit("n1", edit, by=by)
    await bench.nodes.run()
    assert bench.fetched == ["n1"]
    assert getattr(bench.state.nodes["n1"].facts, changed) != before


async def test_a_taint_that_changes_is_seen_each_time(bench: Bench) -> None:
    for value in ("a", "b", "a"):
        taints = [{"key": "k", "value": value}]
        change = partial(_set_taints, taints)
        bench.edit("n1", change, by="kubectl")
        await asyncio.sleep(600)
        await bench.nodes.run()
        assert bench.state.nodes["n1"].facts.taints == tuple(taints)
    assert bench.fetched == ["n1"] * 3


async def test_a_change_in_the_second_of_the_last_one_is_seen(bench: Bench) -> None:
    """Both have the same time in managedFields."""
    await asyncio.sleep(1 - asyncio.get_running_loop().time() % 1)
    bench.edit("n1", lambda body: body["spec"].update(taints=[{"key": "a"}]), by="kubectl")
    await bench.nodes.run()
    bench.edit("n1", lambda body: body["spec"].update(taints=[{"key": "b"}]), by="kubectl")
    await asyncio.sleep(600)
    await bench.nodes.run()
    assert bench.state.nodes["n1"].facts.taints == ({"key": "b"},)


async def test_a_node_of_the_same_name_is_another_one(bench: Bench) -> None:
    bench.kube.remove(node_path("n1"))
    put_node(bench.kube, "n1", boot="boot-2", labels={"zone": "a"})
    await bench.nodes.run()
    assert bench.fetched == ["n1"]
    assert bench.state.nodes["n1"].facts.boot_id == "boot-2"


async def test_a_new_node_is_fetched(bench: Bench) -> None:
    put_node(bench.kube, "n3")
    await bench.nodes.run()
    assert bench.fetched == ["n3"]
    assert bench.state.nodes["n3"].facts.gpu_capacity == 2


async def test_a_node_that_goes_while_it_is_fetched_is_forgotten(bench: Bench) -> None:
    put_node(bench.kube, "n3")
    bench.kube.fail("GET", "/nodes/n3$", meanwhile=lambda: bench.kube.remove(node_path("n3")))
    await bench.nodes.run()
    assert set(bench.state.nodes) == {"n1", "n2"}


async def test_a_fetch_that_fails_fails_the_list_and_is_made_up_for(bench: Bench) -> None:
    bench.edit("n1", lambda body: body["spec"].update(taints=[{"key": "a"}]), by="kubectl")
    bench.kube.fail("GET", "/nodes/n1$", server_error())
    with pytest.raises(ServerError):
        await bench.nodes.run()
    await bench.nodes.run()
    assert bench.state.nodes["n1"].facts.taints == ({"key": "a"},)


class TestStatus:
    """The status matters where a report depends on it before a read fetches the Node."""

    async def change(self, bench: Bench, **capacity: str) -> None:
        bench.edit("n1", lambda body: body["status"]["capacity"].update(capacity), by="kubectl")
        bench.edit(
            "n1", lambda body: body["status"]["nodeInfo"].update(bootID="boot-2"), by="kubectl"
        )
        await bench.nodes.run()

    async def test_not_on_a_node_that_can_be_read(self, bench: Bench) -> None:
        await self.change(bench)
        assert bench.fetched == []

    async def test_a_read_gets_the_node_all_the_same(self, bench: Bench) -> None:
        await self.change(bench)
        bench.see_pod(put_pod(bench.kube, "n1", number=2))
        await bench.process("n1")
        assert bench.fetched == ["n1"]
        assert bench.status("n1")["node"]["bootID"] == "boot-2"

    async def test_without_a_running_target(self, bench: Bench) -> None:
        bench.see_pod(put_pod(bench.kube, "n1"), deleted=True)
        await self.change(bench)
        assert bench.fetched == ["n1"]
        assert bench.state.nodes["n1"].facts.boot_id == "boot-2"

    async def test_without_an_inventory(self, bench: Bench) -> None:
        bench.inventories.remove("n1")
        await self.change(bench, **{"nvidia.com/gpu": "0"})
        assert bench.fetched == ["n1"]
        assert not bench.state.nodes["n1"].facts.has_gpus

    async def test_after_a_departure(self, bench: Bench) -> None:
        departed = STATUS | {"state": "Departed"}
        bench.inventory_changed(put_inventory(bench.kube, "n1", status=departed))
        await self.change(bench)
        assert bench.fetched == ["n1"]

    async def test_after_a_heartbeat_that_did_not_matter_then(self, bench: Bench) -> None:
        """The version is known by now, and the status of it is not."""
        await self.change(bench)
        bench.see_pod(put_pod(bench.kube, "n1"), deleted=True)
        await bench.nodes.run()
        assert bench.fetched == ["n1"]

    async def test_not_on_a_node_that_has_no_gpus(self, kube: FakeKube) -> None:
        bench = Bench(kube)
        put_node(kube, "cpu", gpus=None)
        await bench.read_nodes("n1", "n2")
        bench.beat("cpu")
        await bench.nodes.run()
        assert bench.fetched == []


class TestMany:
    """Many Nodes are listed whole: that costs less than a request for each."""

    async def test_from_a_fifth_of_the_cluster(self, kube: FakeKube) -> None:
        bench = Bench(kube)
        names = [f"n{number:03}" for number in range(300)]
        await bench.read_nodes(*names)
        for name in names[:61]:
            bench.edit(name, lambda body: body["spec"].update(taints=[{"key": "a"}]), by="kubectl")
        await bench.nodes.run()
        assert bench.fetched == []
        assert bench.lists == 3 + 6
        assert all(bench.state.nodes[name].facts.taints for name in names[:61])
        await asyncio.sleep(600)
        for name in names[:60]:
            bench.edit(name, lambda body: body["spec"].pop("taints"), by="kubectl")
        await bench.nodes.run()
        assert len(bench.fetched) == 60
        assert not any(bench.state.nodes[name].facts.taints for name in names[:60])

    async def test_a_cluster_without_managed_fields(self, kube: FakeKube) -> None:
        """As a server that keeps none, and objects that had them removed."""
        kube.tracks_fields = False
        bench = Bench(kube)
        await bench.read_nodes("n1")
        await bench.nodes.run()
        assert bench.fetched == []  # the same resourceVersion
        bench.beat()
        await bench.nodes.run()
        assert bench.fetched == ["n1"]


class TestWrites:
    """A Node whose metadata alone is current is written with its current resourceVersion."""

    async def test_of_labels_cause_no_conflict_and_no_fetch(self, bench: Bench) -> None:
        bench.beat()
        await bench.nodes.run()
        fetched = bench.state.nodes["n1"].fetched
        labeller = NodeLabeller(bench.kube, state=bench.state, idle_gate=IdleGate())
        await labeller.sync("n1")
        assert len(bench.kube.asked("PATCH", "/nodes/n1$")) == 1
        assert bench.fetched == []
        known = bench.state.nodes["n1"]
        assert known.facts.labels["gpuid.github.com/gpu-0"] == "s1"
        # The status may be older than the labels: a read must not take it for current.
        assert (known.fetched, known.whole) == (fetched, False)
        await bench.nodes.run()
        assert bench.fetched == []
