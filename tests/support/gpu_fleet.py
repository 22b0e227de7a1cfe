"""Nodes of a fake cluster whose GPUs move from one to another, and the engine that reads them."""

from __future__ import annotations

from typing import Any

from tests.support.engines import EngineHarness, until
from tests.support.fake_exec import ExecAnswer, ExecCall
from tests.support.kube import EVENTS, FakeKube, Request
from tests.support.objects import inventory_path, node_path, pod_path, put_node, put_pod
from tests.support.smi_fixtures import bodies, machine, uuids, with_bodies

POOL = machine("pool", gpus=8)
"""All GPUs that there are; the tests name them by their number."""
UUIDS = uuids(POOL)
_BODIES = bodies(POOL)


class GPUFleet:
    """The GPUs of each node by number, whether its reads fail, and what the operator made of it."""

    def __init__(self, kube: FakeKube, **options: Any) -> None:
        self.kube = kube
        self.gpus: dict[str, tuple[int, ...]] = {}
        self.failing: set[str] = set()
        self._options = options
        self._containers = 0
        self.harness = EngineHarness(kube, **options)
        self.running = False
        kube.exec.decide = self._answer

    def _answer(self, call: ExecCall) -> ExecAnswer:
        node = call.pod.removeprefix("plugin-")
        if node in self.failing:
            return ExecAnswer(exit_code=9, stderr=b"no driver")
        xml = with_bodies(machine(node), [_BODIES[number] for number in self.gpus[node]])
        return ExecAnswer(stdout=xml.encode(), delay=1.0)

    async def start(self) -> None:
        await self.harness.engine.start()
        self.running = True

    async def stop(self) -> None:
        if self.running:
            self.running = False
            await self.harness.engine.stop(within=10)

    async def restart(self) -> None:
        """Another process takes over."""
        await self.stop()
        self.harness = EngineHarness(self.kube, **self._options)
        await self.start()

    def add(self, node: str, *gpus: int) -> None:
        """A node with these GPUs comes."""
        self.gpus[node] = gpus
        put_node(self.kube, node)
        self.restart_container(node)

    def has(self, node: str, *gpus: int) -> None:
        """The node has other GPUs, and nobody tells the operator."""
        self.gpus[node] = gpus

    def restart_container(self, node: str) -> None:
        """The target container restarts, so that a read of the node is due."""
        self._containers += 1
        body = put_pod(self.kube, node, number=self._containers)
        if self.running:
            self.harness.pod_event(body)

    def remove(self, node: str) -> None:
        """The node goes, with its pod."""
        del self.gpus[node]
        body = self.kube.objects[pod_path(f"plugin-{node}")]
        self.kube.remove(pod_path(f"plugin-{node}"))
        self.kube.remove(node_path(node))
        if self.running:
            self.harness.pod_event(body, deleted=True)

    def suspend(self, node: str, suspended: bool) -> None:
        """A user suspends the node, or ends that."""
        path = inventory_path(node)
        self.kube.change(path, lambda body: body["spec"].update(suspend=suspended))

    async def settled(self) -> None:
        """Every node was read and lists what it has, and every record is delivered."""
        await until(lambda: all(map(self._is_settled, self.gpus)))

    def _is_settled(self, node: str) -> bool:
        sinks = self.status(node).get("sinks", ())
        return self.listed(node) == set(self.gpus[node]) and [s["pending"] for s in sinks] == [0]

    # What the operator wrote

    def status(self, node: str) -> dict[str, Any]:
        body = self.kube.objects.get(inventory_path(node), {})
        return dict(body.get("status", {}))

    def listed(self, node: str) -> set[int]:
        """The GPUs that the inventory of the node lists, by number."""
        return {UUIDS.index(gpu["uuid"]) for gpu in self.status(node).get("gpus", ())}

    def unique(self, node: str) -> tuple[str, str, str] | None:
        """Status, reason and message of the condition Unique."""
        for one in self.status(node).get("conditions", ()):
            if one["type"] == "Unique":
                return one["status"], one["reason"], one["message"]
        return None

    def is_unique(self, node: str) -> str | None:
        """The status of the condition Unique."""
        found = self.unique(node)
        return found[0] if found else None

    def seen_elsewhere(self) -> list[Request]:
        """The Events about GPUs on several nodes."""
        posted = self.kube.asked("POST", EVENTS)
        return [one for one in posted if one.body["reason"] == "SeenElsewhere"]

    def warned(self) -> list[str]:
        """The nodes that these Events are about."""
        return [one.body["involvedObject"]["name"] for one in self.seen_elsewhere()]

    def reads(self, node: str) -> list[float]:
        """When the node was read."""
        return [call.time for call in self.kube.exec.calls if call.pod == f"plugin-{node}"]

    def metric(self) -> float:
        """The gauge `gpuid_duplicate_gpus`."""
        self.harness.engine.count()
        value = self.harness.metrics.registry.get_sample_value("gpuid_duplicate_gpus")
        assert value is not None
        return value
