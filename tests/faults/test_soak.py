"""Churn and faults for minutes: what the operator holds stays flat, and nothing is lost.

A round changes every node once, in random order, while watches are cut and a sink fails now and
then. After each round the operator comes to rest: then it must hold exactly as many threads, tasks
and file descriptors as after the first rounds, and every sink must hold every entry.
"""

from __future__ import annotations

import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import pytest

from gpuid_operator.api.meta import API_VERSION, INVENTORY_KIND, MANAGED_BY_LABEL, MANAGER
from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from gpuid_operator.localcluster.nodes import TARGET_CONTAINER
from tests.faults.campaign import SEED, WHOLE, Figures
from tests.support.api_fault_proxy import ApiFaultProxy
from tests.support.crashes import is_watched
from tests.support.operators import (
    INVENTORIES,
    Operator,
    condition,
    eventually,
    inventory,
    request_read,
    status,
)
from tests.support.receivers import TAKEN, Answer, WebService
from tests.support.sink_servers import ENVIRONMENT, booked, policy
from tests.support.smi_fixtures import facts, swapped

NODES = 200 if WHOLE else 20
WARM_UP = 120.0 if WHOLE else 0.0
"""Seconds of churn after which memory counts."""
SECONDS = 600.0 if WHOLE else 0.0
"""Seconds of churn in which memory counts."""
PERIODS = {"resync": 15.0, "sink_max_backoff": 2.0}
GROWTH = 10.0
"""MiB by which the memory of the last third may exceed that of the first: the allocator's."""
MIB = 1 << 20


@pytest.fixture
def fleet(local_cluster: Callable[..., LocalCluster]) -> Iterator[LocalCluster]:
    cluster = local_cluster(nodes=NODES)
    if WHOLE:
        for node in cluster.node_names:
            fill_history(cluster, node)
    yield cluster
    cluster.down()


def fill_history(cluster: LocalCluster, node: str) -> None:
    """Give a node the history of a long life. Histories grow until they reach their bounds, and
    with them memory; ten minutes of churn do not get there."""
    entries = [
        {
            "sequence": number,
            "time": "2026-06-07T10:30:45Z",
            "type": "HealthChanged" if number % 4 == 0 else "GPUMoved",
            "uuid": f"GPU-{node}-{number}",
            "serial": f"1650{number:09}",
            "pciAddress": "00000000:53:00.0",
            "machine": "i-0123456789abcdef0",
            "source": "gpu-operator/nvidia-device-plugin-daemonset-abcde",
            "product": "NVIDIA H100 80GB HBM3",
            "driver": "570.86.15",
            "from": "00000000:64:00.0",
            "to": "00000000:53:00.0",
            "message": "moved from PCI address 00000000:64:00.0 to 00000000:53:00.0",
        }
        for number in range(1, 101)
    ]
    body = {
        "apiVersion": API_VERSION,
        "kind": INVENTORY_KIND,
        "metadata": {"name": node, "labels": {MANAGED_BY_LABEL: MANAGER}},
    }
    cluster.client.send(Request("POST", INVENTORIES, body))
    written = {"status": {"state": "Present", "sequence": len(entries), "history": entries}}
    path = f"{INVENTORIES}/{node}/status"
    cluster.client.send(Request("PATCH", path, written, content_type=MERGE))


@dataclass(frozen=True)
class Usage:
    """What a process holds that it must give back."""

    threads: int
    tasks: int
    files: int
    connections: int

    @classmethod
    def by(cls, operator: Operator) -> Usage:
        _, metrics = operator.get("/metrics")
        (tasks,) = [one for one in metrics.splitlines() if one.startswith("gpuid_asyncio_tasks ")]
        process = Path(f"/proc/{operator.process.pid}")
        links = []
        for one in (process / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                links.append(str(one.readlink()))
        sockets = sum(link.startswith("socket:") for link in links)
        return cls(
            threads=len(list((process / "task").iterdir())),
            tasks=int(float(tasks.split()[1])),
            files=len(links) - sockets,
            connections=sockets,
        )

    def is_at_most(self, other: Usage) -> bool:
        return all(own <= its for own, its in zip(astuple(self), astuple(other), strict=True))


class Memory:
    """Resident memory of a process, sampled while a context lasts."""

    def __init__(self, operator: Operator) -> None:
        self._statm = Path(f"/proc/{operator.process.pid}/statm")
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.samples: list[tuple[float, float]] = []
        """Seconds and MiB."""

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._end.wait(0.5):
            pages = int(self._statm.read_text().split()[1])
            self.samples.append((time.monotonic(), pages * 4096 / MIB))

    def thirds(self) -> list[float]:
        """The medians of the first, the middle and the last third."""
        values = [value for _, value in self.samples]
        size = len(values) // 3
        return [statistics.median(values[n * size : (n + 1) * size]) for n in range(3)]

    def __str__(self) -> str:
        slope = statistics.linear_regression(*zip(*self.samples, strict=True)).slope
        thirds = " ".join(f"{value:.1f}" for value in self.thirds())
        return f"medians of thirds {thirds} MiB, slope {slope * 60:.2f} MiB per minute"


class FailingService(WebService):
    """A web service that refuses a tenth of all requests, and all of them while it is down."""

    def __init__(self) -> None:
        super().__init__()
        self._chance = random.Random(SEED)
        self.down = False
        self.failed = 0
        self.answer = self._answer

    def _answer(self, *_: object) -> Answer:
        if self.down or self._chance.random() < 0.1:
            self.failed += 1
            return 503, {}
        # No connection stays that the operator would keep for another request.
        return TAKEN[0], {"Connection": "close"}


class Churn:
    """What happens to the fleet, and what its nodes must look like afterwards."""

    def __init__(self, fleet: LocalCluster, proxy: ApiFaultProxy, service: FailingService) -> None:
        self.fleet, self.proxy, self.service = fleet, proxy, service
        self.chance = random.Random(SEED)
        self.tokens = itertools.count()
        self.rounds = itertools.count(1)
        self.containers: dict[str, str] = {}
        self.cuts = 0
        for node in fleet.node_names:
            self._note(node)
        self._set_sinks()

    def run(self, seconds: float, rest: Callable[[], None]) -> None:
        """Rounds with a rest after each, for at least this time, and at least two."""
        end = time.monotonic() + seconds
        for number in itertools.count():
            if number >= 2 and time.monotonic() > end:
                return
            self._round()
            rest()

    def _round(self) -> None:
        """Something happens to every node; meanwhile watches break, a sink fails, and another comes
        and goes."""
        next(self.rounds)
        for count, node in enumerate(self.chance.sample(self.fleet.node_names, NODES)):
            self.service.down = NODES // 4 <= count < NODES // 2
            if count % (NODES // 4) == NODES // 8:
                self.cuts += self.proxy.cut(lambda request: "watch=true" in request)
            if count % (NODES // 2) == 0:
                self._set_sinks(extra=count == 0)
            happens = self.chance.choices(
                [self._swap, self._restart, self._replace, self._read], weights=[70, 15, 5, 10]
            )[0]
            happens(node)

    def _set_sinks(self, *, extra: bool = False) -> None:
        sinks = [self.service.sink("changes"), self.service.sink("seen", records="sightings")]
        policy(self.fleet, "soak", [*sinks, *[{"name": "extra", "stdout": {}}] * extra])

    @property
    def injected(self) -> int:
        return self.cuts + self.service.failed

    def settled(self, node: str) -> None:
        """The inventory says what the hardware is, and its history is delivered."""
        found = status(self.fleet, node)
        assert found["source"]["containerID"] == self.containers[node]
        assert found["gpus"] == facts(self.fleet.smi_file(node).read_text())
        assert condition(self.fleet, node) == ("True", "ReadOK")
        assert condition(self.fleet, node, "Delivered") == ("True", "Delivered")

    def _note(self, node: str) -> None:
        for container in self.fleet.wait_plugin(node)["status"]["containerStatuses"]:
            if container["name"] == TARGET_CONTAINER:
                self.containers[node] = container["containerID"]

    def _swap(self, node: str) -> None:
        xml = self.fleet.smi_file(node).read_text()
        # One of few: the operator remembers the GPUs that a node has had, up to a bound.
        spare = f"{node}-spare-{self.chance.randrange(2)}"
        self.fleet.write_smi(node, swapped(xml, self.chance.randrange(2), spare))
        self._restart(node)

    def _restart(self, node: str) -> None:
        self.containers[node] = self.fleet.restart_plugin(node)

    def _replace(self, node: str) -> None:
        """The node goes with its hardware, and another comes under its name."""
        self.fleet.delete_node(node)
        self.fleet.add_node(node)
        self._note(node)

    def _read(self, node: str) -> None:
        request_read(self.fleet, node, f"soak-{next(self.tokens)}")


def entries(fleet: LocalCluster) -> set[tuple[str, int]]:
    """Every entry that a history has had: the uid of the inventory, and the number."""
    items = [inventory(fleet, node) for node in fleet.node_names]
    return {
        (item["metadata"]["uid"], number)
        for item in items
        for number in range(1, item["status"]["sequence"] + 1)
    }


def delivered(service: WebService) -> list[tuple[str, int]]:
    """The entries whose records the service has from either sink; twice if it has one under two
    ids."""
    sighted = [record for record in service.records if record["event"] == "Sighted"]
    others = [record for record in service.records if record["event"] != "Sighted"]
    found = []
    for identity in [*booked(sighted), *booked(others)]:
        uid, number, _, *part = identity.split(".")
        if part in ([], ["0"]):  # a sighting has a record for each GPU
            found.append((uid, int(number)))
    return found


@pytest.mark.timeout(1800 if WHOLE else 300)
def test_what_the_operator_holds_stays_flat(
    fleet: LocalCluster, figures: Callable[[str], Figures]
) -> None:
    row = figures("soak")
    with ApiFaultProxy(fleet, tls=True) as proxy, FailingService() as service:
        churn = Churn(fleet, proxy, service)
        with Operator(
            fleet, kubeconfig=proxy.kubeconfig, periods=PERIODS, **ENVIRONMENT
        ) as operator:

            def rest() -> None:
                for node in fleet.node_names:
                    eventually(partial(churn.settled, node), within=120)
                # A watch that waits for its next try has no connection.
                eventually(lambda: is_watched(proxy), within=120)
                row.injected = row.survived = churn.injected

            def usage() -> Usage:
                """Without connections that only wait for another request."""
                assert proxy.close_idle() == 0
                return Usage.by(operator)

            def is_back_at(before: Usage) -> Usage:
                now = usage()
                assert now.is_at_most(before)
                return now

            rest()
            churn.run(WARM_UP, rest)
            least = eventually(usage)
            with Memory(operator) as memory:

                def rest_as_before() -> None:
                    nonlocal least
                    rest()
                    least = eventually(lambda: is_back_at(least))

                churn.run(SECONDS, rest_as_before)
            print(f"{next(churn.rounds) - 1} rounds, {least}, {memory}")
        wanted, came = entries(fleet), delivered(service)
        row.expected, row.delivered = len(wanted), len(set(came) & wanted)
        row.doubled = len(came) - len(set(came))
        assert set(came) == wanted
        assert row.doubled == 0
    if WHOLE:
        first, _, last = memory.thirds()
        assert last - first < GROWTH, str(memory)
