"""Sinks that are down, slow, new, or refuse a record: what the others and the nodes see of it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.plan.history import IDENTITY, KEPT_IDENTITY
from tests.support.operators import Operator, condition, eventually, inventory, status
from tests.support.receivers import TAKEN, Answer, WebService
from tests.support.sink_servers import ENVIRONMENT, booked, of_inventory, policy
from tests.support.smi_fixtures import machine, serials, swapped, uuids

LABEL = "test"
# A permanent refusal is retried soon here.
PERIODS = {"sink_max_backoff": 1.0}
UNAVAILABLE: Answer = (503, {})
CHANGES = 500


@pytest.fixture(scope="module")
def operator(fleet: LocalCluster) -> Iterator[Operator]:
    with Operator(fleet, periods=PERIODS, **ENVIRONMENT) as operator:
        yield operator


@dataclass
class Nodes:
    """The nodes of one test, under a policy of their own."""

    fleet: LocalCluster
    label: str
    names: list[str] = field(default_factory=list)
    generation: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def add(self, *names: str, gpus: int = 2) -> None:
        for name in names:
            self.fleet.add_node(name, xml=machine(name, gpus=gpus), labels={LABEL: self.label})
            self.names.append(name)
        for name in names:
            eventually(partial(self.is_known, name))

    def deliver_to(self, *sinks: dict[str, Any]) -> None:
        selector = {"matchLabels": {LABEL: self.label}}
        policy(self.fleet, self.label, list(sinks), nodeSelector=selector)

    def replace(self, node: str, *, gpus: int) -> None:
        """Other GPUs are in the node, and that is in its history."""
        name = f"{node}-{next(self.generation)}"
        self.fleet.write_smi(node, machine(name, gpus=gpus))
        container = self.fleet.restart_plugin(node)
        eventually(lambda: self.is_read(node, container))

    def is_known(self, node: str) -> None:
        assert status(self.fleet, node).get("gpus")

    def is_read(self, node: str, container: str) -> None:
        assert status(self.fleet, node)["source"]["containerID"] == container

    @property
    def written(self) -> dict[str, dict[str, Any]]:
        """What the histories hold, by id."""
        items = [inventory(self.fleet, name) for name in self.names]
        return {record["id"]: record for item in items for record in of_inventory(item)}

    def has_all(self, service: WebService) -> None:
        """Every entry of the histories came to the sink, and is noted."""
        assert booked(service.records).items() >= self.written.items()
        for name in self.names:
            assert condition(self.fleet, name, "Delivered") == ("True", "Delivered")

    def sequences(self, service: WebService, node: str) -> list[int]:
        """The numbers of the entries that came, in the order of their coming."""
        return [one["sequence"] for one in booked(service.records).values() if one["node"] == node]


@pytest.fixture
def nodes(fleet: LocalCluster, operator: Operator, request: pytest.FixtureRequest) -> Nodes:
    label = request.node.name.removeprefix("test_")[:40].strip("_").replace("_", "-")
    return Nodes(fleet, label)


@pytest.fixture
def services() -> Iterator[Callable[[], WebService]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(WebService())


def metric(operator: Operator, name: str, sink: str) -> float:
    _, text = operator.get("/metrics")
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels["sink"] == sink:
                return sample.value
    return 0.0


def test_down_through_500_changes(
    nodes: Nodes, services: Callable[[], WebService], operator: Operator
) -> None:
    down, up = services(), services()
    down.answer = lambda *_: UNAVAILABLE
    nodes.deliver_to(down.sink("down"), up.sink("up"))
    nodes.add(*(f"gpu-outage-{number}" for number in range(16)), gpus=8)
    for name in nodes.names * 2:
        nodes.replace(name, gpus=8)
    assert len(nodes.written) >= CHANGES

    def others_go_on() -> None:
        assert booked(up.records) == nodes.written
        for name in nodes.names:
            assert condition(nodes.fleet, name, "Delivered") == ("False", "Unavailable")
            found = {sink["name"]: sink for sink in status(nodes.fleet, name)["sinks"]}
            assert found["up"]["pending"] == 0
            assert found["down"]["pending"] == 8 + 2 * 16
            assert "503" in found["down"].get("lastError", "")

    eventually(others_go_on)
    assert down.records == []
    assert metric(operator, "gpuid_records_pending", "down") == 16 * (8 + 2 * 16)
    assert metric(operator, "gpuid_delivery_failures_total", "down") >= 3
    down.answer = lambda *_: TAKEN
    eventually(lambda: nodes.has_all(down))
    assert booked(down.records).keys() == booked(up.records).keys()
    eventually(lambda: nothing_pending(operator, "down"))


def nothing_pending(operator: Operator, sink: str) -> None:
    assert metric(operator, "gpuid_records_pending", sink) == 0


def test_the_bound_is_reached_and_left(
    nodes: Nodes, services: Callable[[], WebService], operator: Operator
) -> None:
    late, prompt = services(), services()
    late.answer = lambda *_: UNAVAILABLE
    nodes.deliver_to(late.sink("late"), prompt.sink("prompt"))
    node = "gpu-overflow"
    nodes.add(node, gpus=32)
    while status(nodes.fleet, node)["sequence"] < 600:
        nodes.replace(node, gpus=32)

    def overflows() -> None:
        assert condition(nodes.fleet, node, "Delivered") == ("False", "Overflow")

    eventually(overflows)
    found = status(nodes.fleet, node)
    assert len(found["history"]) <= 500
    (gone,) = [entry for entry in found["history"] if entry["type"] == "Dropped"]
    assert "GPUAdded=" in gone["message"]
    dropped = int(gone["message"].split()[1])

    def counted() -> None:
        assert metric(operator, "gpuid_records_dropped_total", "late") == dropped
        assert metric(operator, "gpuid_records_dropped_total", "prompt") == 0

    eventually(counted)

    late.answer = lambda *_: TAKEN
    eventually(lambda: nodes.has_all(late))
    found = status(nodes.fleet, node)
    assert len(found["history"]) <= 2 * KEPT_IDENTITY + 32 + 20
    told = [entry["type"] for entry in found["history"]].count("Dropped")
    assert told <= 1
    came = booked(late.records)
    (said,) = [one for one in came.values() if one["event"] == "Dropped"]
    assert said["sequence"] == gone["sequence"]
    # What did not give way came, the newest last; and it tells which GPUs are there.
    assert present(came.values()) == {gpu["uuid"] for gpu in found["gpus"]}
    every = nodes.sequences(prompt, node)
    missing = set(every) - set(nodes.sequences(late, node))
    assert len([n for n in missing if not is_dropped(prompt, node, n)]) == dropped

    nodes.replace(node, gpus=32)
    eventually(lambda: nodes.has_all(late))
    counted()


def is_dropped(service: WebService, node: str, sequence: int) -> bool:
    return any(
        one["event"] == "Dropped" and one["node"] == node and one["sequence"] == sequence
        for one in service.records
    )


def present(records: Any) -> set[str]:
    """The GPUs that are there, as somebody knows who got these records."""
    there: set[str] = set()
    for record in records:
        if record["event"] == "GPUAdded":
            there.add(record["uuid"])
        elif record["event"] == "GPURemoved":
            there.discard(record["uuid"])
    return there


def test_a_new_sink_on_an_old_fleet_gets_every_present_gpu(
    nodes: Nodes, services: Callable[[], WebService]
) -> None:
    old, new = services(), services()
    nodes.deliver_to(old.sink("old"))
    nodes.add("gpu-old-1", "gpu-old-2", "gpu-old-3", gpus=4)
    # More than history keeps: the first arrivals are gone from it.
    for _ in range(KEPT_IDENTITY // 8 + 2):
        first = nodes.fleet.smi_file(nodes.names[0]).read_text()
        nodes.replace(nodes.names[1], gpus=4)
    nodes.fleet.delete_node(nodes.names[2])

    def departed() -> None:
        assert status(nodes.fleet, nodes.names[2])["state"] == "Departed"
        nodes.has_all(old)

    eventually(departed)
    entries = status(nodes.fleet, nodes.names[1])["history"]
    assert entries[0]["sequence"] > 1
    nodes.deliver_to(old.sink("old"), new.sink("new"))
    eventually(lambda: nodes.has_all(new))
    now = nodes.fleet.smi_file(nodes.names[1]).read_text()
    assert present(booked(new.records).values()) == {*uuids(first), *uuids(now)}
    assert {one["gpu"] for one in new.records} >= {*serials(first), *serials(now)}

    # A removed sink leaves no cursor; a sink that returns starts from the whole history.
    taken = len(new.records)
    nodes.deliver_to(old.sink("old"))

    def forgotten() -> None:
        for name in nodes.names:
            assert [sink["name"] for sink in status(nodes.fleet, name)["sinks"]] == ["old"]

    eventually(forgotten)
    nodes.replace(nodes.names[1], gpus=4)
    eventually(lambda: nodes.has_all(old))
    assert len(new.records) == taken
    nodes.deliver_to(old.sink("old"), new.sink("new"))
    eventually(lambda: nodes.has_all(new))


def test_a_slow_sink_delays_no_other(nodes: Nodes, services: Callable[[], WebService]) -> None:
    slow, fast = services(), services()
    begun, go_on = threading.Event(), threading.Event()

    def wait(*_: object) -> Answer:
        begun.set()
        go_on.wait()
        return TAKEN

    slow.answer = wait
    nodes.deliver_to(slow.sink("slow", timeout="5m"), fast.sink("fast"))
    try:
        nodes.add("gpu-slow-1")
        assert begun.wait(30)
        nodes.add("gpu-slow-2")
        nodes.replace("gpu-slow-1", gpus=2)

        def delivered() -> None:
            assert booked(fast.records) == nodes.written
            assert len(nodes.written) == 2 + 2 + 4
            for name in nodes.names:
                found = {sink["name"]: sink for sink in status(nodes.fleet, name)["sinks"]}
                assert found["fast"]["pending"] == 0
                assert found["slow"]["pending"] > 0

        eventually(delivered)
        assert slow.records == []
    finally:
        go_on.set()
    eventually(lambda: nodes.has_all(slow))


@pytest.mark.parametrize("status_code", [400, 413, 422])
def test_a_refused_record_holds_back_its_node_alone(
    nodes: Nodes, services: Callable[[], WebService], operator: Operator, status_code: int
) -> None:
    picky = services()
    names = [f"gpu-poison-{status_code}-{number}" for number in range(5)]
    refused = uuids(machine(names[2], gpus=3))[1]
    picky.answer = lambda *_: UNAVAILABLE
    nodes.deliver_to(picky.sink(f"picky-{status_code}"))
    nodes.add(*names, gpus=3)

    def waiting() -> None:
        for name in names:
            assert condition(nodes.fleet, name, "Delivered")[0] == "False"

    eventually(waiting)

    def answer(_: object, records: list[dict[str, Any]]) -> Answer:
        found = any(record["uuid"] == refused for record in records)
        return (status_code, {}) if found else TAKEN

    picky.answer = answer

    def others_have_it() -> None:
        for name in names:
            if name != names[2]:
                assert nodes.sequences(picky, name) == [1, 2, 3]
                assert condition(nodes.fleet, name, "Delivered") == ("True", "Delivered")
        assert nodes.sequences(picky, names[2]) == [1]
        assert condition(nodes.fleet, names[2], "Delivered") == ("False", "RecordRefused")

    eventually(others_have_it)
    nodes.replace(names[0], gpus=3)
    swap = swapped(nodes.fleet.smi_file(names[2]).read_text(), 2, "gpu-poison-spare")
    nodes.fleet.write_smi(names[2], swap)
    nodes.fleet.restart_plugin(names[2])

    def others_go_on() -> None:
        assert len(nodes.sequences(picky, names[0])) == 3 + 6
        assert status(nodes.fleet, names[2])["sequence"] > 4

    eventually(others_go_on)
    assert nodes.sequences(picky, names[2]) == [1]
    alone = [one.records for one in picky.deliveries if one.status == status_code]
    assert [refused] in [[record["uuid"] for record in records] for records in alone]
    lines = [line for line in operator.lines() if line["msg"].startswith("sink refused a record")]
    uid = inventory(nodes.fleet, names[2])["metadata"]["uid"]
    assert [line["record"].rpartition(".")[0] for line in lines][-1:] == [f"{uid}.2"]
    picky.answer = lambda *_: TAKEN
    eventually(lambda: nodes.has_all(picky))
    assert {one["event"] for one in picky.records} <= IDENTITY


def test_a_record_that_an_otlp_receiver_rejects_waits_alone(
    nodes: Nodes, services: Callable[[], WebService]
) -> None:
    """The receiver takes the others of the same request."""
    picky = services()
    names = ["gpu-partial-1", "gpu-partial-2"]
    refused = uuids(machine(names[1], gpus=3))[1]
    picky.answer = lambda *_: UNAVAILABLE
    nodes.deliver_to(picky.sink("partial", format="otlp"))
    nodes.add(*names, gpus=3)

    def waiting() -> None:
        for name in names:
            assert condition(nodes.fleet, name, "Delivered") == ("False", "Unavailable")

    eventually(waiting)
    picky.rejects = lambda record: record["uuid"] == refused
    picky.answer = lambda *_: (200, {})

    def waits() -> None:
        assert condition(nodes.fleet, names[0], "Delivered") == ("True", "Delivered")
        assert condition(nodes.fleet, names[1], "Delivered") == ("False", "RecordRefused")
        (sink,) = status(nodes.fleet, names[1])["sinks"]
        assert sink["pending"] == 2
        assert sink["lastError"].endswith(": 200 OK: rejected 1 log records: not this one")

    eventually(waits)
    came = {record["id"]: record for record in picky.records}
    rejected = nodes.written.keys() - came.keys()
    assert [nodes.written[identity]["uuid"] for identity in rejected] == [refused]
    picky.rejects = lambda _: False

    def arrived() -> None:
        assert {record["id"]: record for record in picky.records} == nodes.written
        nodes_delivered = [condition(nodes.fleet, name, "Delivered")[0] for name in names]
        assert nodes_delivered == ["True", "True"]

    eventually(arrived)


def test_an_unusable_address_holds_up_its_sink_alone(
    nodes: Nodes, services: Callable[[], WebService]
) -> None:
    good = services()
    bad = {"name": "bad", "http": {"url": "https://[host/"}}
    nodes.deliver_to(bad, good.sink("good"))
    nodes.add("gpu-address")

    def told() -> None:
        found = {sink["name"]: sink for sink in status(nodes.fleet, "gpu-address")["sinks"]}
        assert found["good"]["pending"] == 0
        assert found["bad"]["pending"] == 2
        assert "Refused: invalid settings" in found["bad"].get("lastError", "")
        assert condition(nodes.fleet, "gpu-address", "Delivered") == ("False", "Refused")

    eventually(told)
    assert booked(good.records) == nodes.written


def test_a_sink_says_when_to_come_again(nodes: Nodes, services: Callable[[], WebService]) -> None:
    """Meanwhile a sink that names no time is tried again and again, each second at the latest."""
    busy, down = services(), services()
    tries_of_down: list[int] = []
    answers = iter([(429, {"Retry-After": "8"}), TAKEN])

    def answer(*_: object) -> Answer:
        tries_of_down.append(len(down.deliveries))
        return next(answers, TAKEN)

    busy.answer = answer
    down.answer = lambda *_: UNAVAILABLE
    nodes.deliver_to(busy.sink("busy"), down.sink("down"))
    nodes.add("gpu-busy")

    def taken() -> None:
        assert booked(busy.records) == nodes.written

    eventually(taken)
    assert tries_of_down[1] - tries_of_down[0] >= 4
    first, second = busy.deliveries[:2]
    assert first.records == second.records
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
