"""A script of hardware changes and faults of exec, and an engine that lives through it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gpuid_operator.api.sinks import Records, Sink, StdoutSink
from gpuid_operator.plan.quarantine_taints import NodeLimit
from tests.support.engines import EngineHarness, builtin, until
from tests.support.exec_faults import FAILURES, STRAIN
from tests.support.fake_exec import ExecAnswer, ExecCall
from tests.support.kube import FakeKube
from tests.support.moving_gpus import JUDGED, Changes, Machine, Technicians
from tests.support.objects import (
    inventory_path,
    node_path,
    pod_path,
    put_node,
    put_pod,
    put_quarantine,
)

MODELS: Final = {"gpu-a": "h100", "gpu-b": "h100", "gpu-c": "gb200"}
SINKS: Final = [
    Sink(name=kind.value, records=kind, stdout=StdoutSink())
    for kind in (Records.CHANGES, Records.SIGHTINGS)
]
POD_GOES: Final = "pod goes"
SHORT: Final = "a GPU missing once"

_BACKOFFS: Final = 3600.0
"""Seconds within which a node is read well after the faults of a step."""


@dataclass(frozen=True, slots=True)
class Step:
    """The fleet from now on, and what becomes of the next reads."""

    fleet: dict[str, Machine | None]
    triggers: dict[str, str]
    """What makes each node read: a request, a restart of its container, or another pod."""
    faults: dict[str, list[str]]


def script(seed: int, steps: int) -> list[Step]:
    """A script that follows from `seed` alone."""
    rng = random.Random(seed)
    technicians = Technicians(rng, MODELS)
    made = []
    before: dict[str, Machine | None] = {}
    for _ in range(steps):
        fleet = dict(technicians.fleet)
        faults = {node: _draw(rng, here, before.get(node)) for node, here in fleet.items() if here}
        triggers = {node: rng.choice(("request", "request", "restart", "pod")) for node in fleet}
        made.append(Step(fleet, triggers, faults))
        before = fleet
        technicians.work()
    return made


def _draw(rng: random.Random, here: Machine, before: Machine | None) -> list[str]:
    drawn = rng.choices(sorted({*FAILURES, POD_GOES}), k=rng.choice((0, 1, 1, 2, 4)))
    if missable(before, here) and rng.random() < 0.3:
        drawn.insert(rng.randrange(len(drawn) + 1), SHORT)
    if rng.random() < 0.3:
        drawn.append(rng.choice(sorted(STRAIN)))
    return drawn


def missable(before: Machine | None, here: Machine) -> list[str]:
    """The GPUs that one read without them does not remove: they were there before, the node is the
    same and did not reboot, and no other GPU took their place."""
    if before is None or (before.number, before.boot) != (here.number, here.boot):
        return []
    places = {seat.address: uuid for uuid, seat in here.parts.items()}
    return sorted(
        uuid
        for uuid, seat in before.parts.items()
        if uuid in here.parts and places.get(seat.address, uuid) == uuid
    )


@dataclass
class FleetRun:
    """An engine under a script; with `faults` false, exec works as it should."""

    kube: FakeKube
    rng: random.Random
    faults: bool = True
    meanwhile: Callable[[], int] = lambda: 0
    """Called at each step; returns how many further faults it injects."""
    quarantines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Specs of quarantines that are there from the beginning, by name."""
    injected: int = 0
    said: list[dict[str, Changes]] = field(default_factory=list)
    """By step and node: the entries of the types that `changes` knows."""
    floods: int = 0
    """Outputs that did not end."""

    def __post_init__(self) -> None:
        self.harness = EngineHarness(
            self.kube,
            builtin=builtin(sinks=SINKS),
            quarantine_taints=True,
            quarantine_max_nodes=NodeLimit.parse("100%"),  # else the first node with a part has it
        )
        for name, spec in self.quarantines.items():
            put_quarantine(self.kube, name, **spec)
        self.kube.exec.decide = self._decide
        self._fleet: dict[str, Machine | None] = {}
        self._before: dict[str, Machine | None] = {}
        self._pending: dict[str, list[str]] = {}
        self._pods: dict[str, str] = {}
        self._short: set[str] = set()
        """The nodes whose last whole output lacked a GPU."""
        self._tokens: dict[str, str] = {}
        self._made = 0

    async def play(self, steps: list[Step]) -> None:
        """Take each step and wait until the inventories show it."""
        await self.harness.engine.start()
        for number, step in enumerate(steps):
            try:
                await self._take(step)
            except AssertionError:
                raise AssertionError(f"step {number}: {self.describe()}") from None
        # A Node that was replaced gets its taint with the next resync.
        await until(lambda: all(map(self._is_tainted_as_marked, MODELS)))
        await self.harness.engine.stop(within=10)

    def describe(self) -> str:
        """The conditions of all nodes, and the faults that are still to come."""
        ready = {
            node: [(one["type"], one["reason"], one["message"]) for one in status["conditions"]]
            for node in MODELS
            if (status := self.status(node))
        }
        return f"{ready}, faults to come: {self._pending}"

    def status(self, node: str) -> dict[str, Any]:
        found: dict[str, Any] = self.kube.objects.get(inventory_path(node), {}).get("status", {})
        return found

    def _is_tainted_as_marked(self, node: str) -> bool:
        marked = any(gpu.get("quarantines") for gpu in self.status(node).get("gpus", ()))
        body = self.kube.objects.get(node_path(node))
        return body is None or bool(body["spec"].get("taints")) == marked

    def changes_sent(self) -> list[dict[str, Any]]:
        """The records that the sink of changes has."""
        return [record for record in self.harness.records if record["event"] != "Sighted"]

    async def _take(self, step: Step) -> None:
        sent = len(self.harness.records)
        self._pending = {
            node: list(faults) if self.faults else [] for node, faults in step.faults.items()
        }
        self.injected += sum(map(len, self._pending.values()))
        for node, here in step.fleet.items():
            self._bring(node, self._fleet.get(node), here, step.triggers[node])
        self._before, self._fleet = self._fleet, dict(step.fleet)
        self.injected += self.meanwhile()
        await until(lambda: all(map(self._shows, MODELS)), within=_BACKOFFS)
        said: dict[str, Changes] = {node: Counter() for node in MODELS}
        for record in self.harness.records[sent:]:
            if record["event"] in JUDGED:
                said[record["node"]][record["event"], record.get("uuid") or ""] += 1
        self.said.append(said)

    def _bring(self, node: str, before: Machine | None, here: Machine | None, trigger: str) -> None:
        """Change the cluster as a change of the hardware does, and make the node due."""
        if here is None:
            if before is not None:
                self.kube.remove(node_path(node))
                self._remove_pod(node)
            return
        if before is not None and before.number != here.number:
            self.kube.remove(node_path(node))
            self._remove_pod(node)
        boot = f"boot-{here.boot}"
        if node_path(node) not in self.kube.objects:
            put_node(self.kube, node, machine=f"i-{here.number}", boot=boot)
        self.kube.change(
            node_path(node), lambda body: body["status"]["nodeInfo"].update(bootID=boot)
        )
        if node not in self._pods or trigger == "pod":
            self._replace_pod(node)
        elif trigger == "restart" or (before and before.boot != here.boot):
            self._made += 1
            body = put_pod(self.kube, node, name=self._pods[node], number=self._made)
            self.harness.pod_event(body)
        else:
            self._request(node)

    def _request(self, node: str) -> None:
        self._made += 1
        self._tokens[node] = str(self._made)

        def ask(body: dict[str, Any]) -> None:
            annotations = body["metadata"].setdefault("annotations", {})
            annotations["gpuid.github.com/requestedAt"] = self._tokens[node]

        self.kube.change(inventory_path(node), ask)

    def _remove_pod(self, node: str) -> None:
        path = pod_path(self._pods.pop(node))
        body = self.kube.objects[path]
        self.kube.remove(path)
        self.harness.pod_event(body, deleted=True)

    def _replace_pod(self, node: str) -> None:
        if node in self._pods:
            self._remove_pod(node)
        self._made += 1
        self._pods[node] = f"plugin-{node}-{self._made}"
        self.harness.pod_event(put_pod(self.kube, node, name=self._pods[node]))

    def _decide(self, call: ExecCall) -> ExecAnswer:
        node = next(node for node in MODELS if node in call.pod)
        here = self._fleet[node]
        assert here is not None
        pending = self._pending.get(node)
        if not pending:
            self._short.discard(node)
            return ExecAnswer(stdout=here.xml())
        fault = pending.pop(0)
        if fault == POD_GOES:
            asyncio.get_running_loop().call_later(0.1, self._replace_pod, node)
            return ExecAnswer(stdout=here.xml()[:1000], delay=0.2, cut=True)
        if fault == SHORT:
            missing = self.rng.choice(missable(self._before.get(node), here))
            self._short.add(node)
            return ExecAnswer(stdout=here.xml(without=missing))
        if fault in STRAIN:
            self._short.discard(node)
        answer = (FAILURES | STRAIN)[fault](here.xml(), self.rng)
        self.floods += answer.flood > 0
        return answer

    def _shows(self, node: str) -> bool:
        """Whether the inventory shows the machine by a read of this step, and all is sent."""
        here, status = self._fleet.get(node), self.status(node)
        if here is None:
            return not status or (status["state"] == "Departed" and is_delivered(status))
        return (
            status.get("state") == "Present"
            and not self._pending[node]
            and node not in self._short
            and not self.kube.exec.running
            and status.get("driverVersion") == here.driver
            and _ready(status)
            and status["source"]["containerID"] == self._container(node)
            and status.get("lastHandledRequest") == self._tokens.get(node)
            and facts(status) == machine_facts(here)
            and is_delivered(status)
        )

    def _container(self, node: str) -> str:
        body = self.kube.objects[pod_path(self._pods[node])]
        return str(body["status"]["containerStatuses"][0]["containerID"])


def _ready(status: Mapping[str, Any]) -> bool:
    return any((one["type"], one["reason"]) == ("Ready", "ReadOK") for one in status["conditions"])


def is_delivered(status: Mapping[str, Any]) -> bool:
    """Whether both sinks have all of a history."""
    return [sink["pending"] for sink in status.get("sinks", ())] == [0, 0]


def facts(status: Mapping[str, Any]) -> dict[str, tuple[str, str, bool]]:
    """Serial, address and whether it is lost, of each GPU of an inventory."""
    return {
        gpu["uuid"]: (gpu["serial"], gpu["pciAddress"], gpu["state"] == "Lost")
        for gpu in status.get("gpus", ())
    }


def machine_facts(machine: Machine) -> dict[str, tuple[str, str, bool]]:
    """The same of a machine."""
    return {
        uuid: (seat.part.serial, seat.address, seat.lost) for uuid, seat in machine.parts.items()
    }
