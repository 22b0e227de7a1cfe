"""The operator is killed while it delivers: nothing is lost, and no id has two contents."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from tests.faults.campaign import WHOLE
from tests.support.api_fault_proxy import ApiFaultProxy, Position
from tests.support.fleetwide import RECEIVERS, Fleetwide, Setting
from tests.support.operators import Operator, eventually, inventory, status
from tests.support.sink_servers import ENVIRONMENT, of_inventory, policy
from tests.support.smi_fixtures import machine, swapped
from tests.support.tcp_fault_proxy import TcpFaultProxy

NODES = [f"gpu-kill-{number}" for number in range(8)]
SINKS = (*RECEIVERS, "stdout")
KILLS = 100 if WHOLE else 30
# A delivery that is repeated after a crash need not wait for minutes here.
PERIODS = {"sink_max_backoff": 2.0}


@dataclass
class Scene:
    """The cluster, the sinks, and what stands between them and the operator."""

    fleet: LocalCluster
    api_proxy: ApiFaultProxy
    sink_proxies: dict[str, TcpFaultProxy]
    servers: Fleetwide
    operator: Operator
    spares: Iterator[int]

    def change(self, node: str) -> None:
        """Another GPU is in the node."""
        xml = self.fleet.smi_file(node).read_text()
        self.fleet.write_smi(node, swapped(xml, 1, f"gpu-spare-{next(self.spares)}"))
        self.fleet.restart_plugin(node)

    def has(self, sink: str, records: list[dict[str, Any]]) -> bool:
        """Whether all of these came to a sink."""
        came = self.operator.records() if sink == "stdout" else self.received(sink)
        return {record["id"] for record in records} <= {record["id"] for record in came}

    def received(self, sink: str = "http") -> list[dict[str, Any]]:
        """What the server of a sink holds."""
        return self.servers.receivers[sink].records()

    def newest(self, node: str, *, after: int) -> list[dict[str, Any]]:
        """The records of the node's entries after a sequence."""
        found = of_inventory(inventory(self.fleet, node))
        return [record for record in found if record["sequence"] > after]

    def settle(self) -> None:
        """Everything is delivered and noted, and the books agree."""

        def noted() -> None:
            for node in NODES:
                found = status(self.fleet, node)
                assert [sink["pending"] for sink in found.get("sinks", ())] == [0] * len(SINKS), (
                    node
                )
                assert {sink["deliveredSequence"] for sink in found["sinks"]} == {found["sequence"]}

        eventually(noted, within=60)
        self.servers.check(self.operator)


@pytest.fixture(scope="module")
def scene(fleet: LocalCluster, request: pytest.FixtureRequest) -> Iterator[Scene]:
    with ExitStack() as stack:
        servers = Fleetwide(Setting(fleet, "crashes", request, stack))
        sink_proxies = {
            name: stack.enter_context(TcpFaultProxy(receiver.port, listen=receiver.proxy_port))
            for name, receiver in servers.receivers.items()
        }
        ports = {name: proxy.port for name, proxy in sink_proxies.items()}
        policy(fleet, "fleet", servers.sinks(ports))
        for node in NODES:
            fleet.add_node(node, xml=machine(node))
        api_proxy = stack.enter_context(ApiFaultProxy(fleet))
        operator = stack.enter_context(
            Operator(fleet, kubeconfig=api_proxy.kubeconfig, periods=PERIODS, **ENVIRONMENT)
        )
        scene = Scene(fleet, api_proxy, sink_proxies, servers, operator, itertools.count())
        scene.settle()
        yield scene


def test_killed_before_the_send(scene: Scene) -> None:
    node = NODES[0]
    before = status(scene.fleet, node)["sequence"]
    trap = scene.api_proxy.set_trap(
        0, Position.AFTER, scene.operator.kill, wanted=lambda request: f"/{node}/status" in request
    )
    scene.change(node)
    assert trap.triggered.wait(30)
    news = scene.newest(node, after=before)
    assert len(news) == 2, "the history is not written"
    assert not any(scene.has(sink, news[:1]) for sink in SINKS)
    scene.operator.restart()
    scene.settle()


@pytest.mark.parametrize("position", list(Position))
@pytest.mark.parametrize("sink", list(RECEIVERS))
def test_killed_before_the_answer(scene: Scene, sink: str, position: Position) -> None:
    """Whether the sink has seen the records, or has taken them."""
    # A node per sink: a history that outgrows its bound no longer has all records.
    node = NODES[list(RECEIVERS).index(sink) % len(NODES)]
    before = status(scene.fleet, node)["sequence"]
    trap = scene.sink_proxies[sink].set_trap(
        scene.servers.receivers[sink].pattern, position, scene.operator.kill
    )
    scene.change(node)
    assert trap.triggered.wait(30)
    news = scene.newest(node, after=before)
    assert len(news) == 2
    assert scene.has(sink, news) is (position is Position.AFTER)
    scene.operator.restart()
    scene.settle()


def test_killed_before_the_acknowledgement(scene: Scene) -> None:
    """All sinks have answered, and nothing of it is noted."""
    node = NODES[2]
    before = status(scene.fleet, node)["sequence"]

    writes = itertools.count()

    def acknowledges(head: str) -> str | None:
        """Break the connection of each write of the status but the first, that of the history."""
        is_write = head.startswith("PATCH") and f"/{node}/status" in head
        return "" if is_write and next(writes) else None

    scene.api_proxy.refuses = acknowledges
    scene.change(node)

    def taken() -> None:
        news = scene.newest(node, after=before)
        assert len(news) == 2
        assert all(scene.has(sink, news) for sink in SINKS)
        assert scene.api_proxy.refused

    eventually(taken)
    scene.operator.kill()
    assert {sink["pending"] for sink in status(scene.fleet, node)["sinks"]} == {2}
    scene.api_proxy.refuses = lambda _: None
    scene.operator.restart()
    scene.settle()
    ids = [one["id"] for one in scene.newest(node, after=before)]
    times = Counter(one["id"] for one in scene.received())
    assert [times[one] for one in ids] == [2, 2], "sent once more, and no more"


def test_killed_thirty_times_at_random_moments(scene: Scene) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    chance = random.Random(seed)
    before, received = total(scene), len(scene.received())
    # All nodes have their turn before any has another: one that is changed much more often than the
    # others outgrows its history, which the books are compared with.
    turns = itertools.chain.from_iterable(chance.sample(NODES, len(NODES)) for _ in range(KILLS))
    for _ in range(KILLS):
        if chance.random() < 0.8:  # the others are killed while they start
            scene.operator.wait_ready()
        for node in itertools.islice(turns, 3):
            scene.change(node)
        # The moment is what is random: while it reads, writes, sends or notes.
        time.sleep(chance.uniform(0.0, 0.8))
        scene.operator.kill()
        scene.operator.start()
    during = len(scene.received()) - received
    print(f"{total(scene) - before} entries, {during} records to a web service")
    assert total(scene) - before > KILLS
    assert during > KILLS / 3
    scene.operator.wait_ready()
    scene.settle()


def total(scene: Scene) -> int:
    return sum(status(scene.fleet, node)["sequence"] for node in NODES)
