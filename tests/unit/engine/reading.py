"""A reader and what it works with, without the rest of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from gpuid_operator.api.policy import Policy
from gpuid_operator.engine.reading.reader import Reader
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.kube.nodes import NodeFacts
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.target import Target
from gpuid_operator.telemetry.metrics import Metrics
from tests.support import clock
from tests.support.engines import TARGET, builtin
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube
from tests.support.objects import inventory_path, put_node, put_pod

TIMEOUT = timedelta(seconds=30)


class ReadBench:
    """A reader on a fake cluster; a test plays the watch and the queue."""

    def __init__(
        self,
        kube: FakeKube,
        *,
        targets: tuple[Target, ...] = (TARGET,),
        suspended: bool = False,
        slots: int = 4,
        **policy: Any,
    ) -> None:
        self.kube = kube
        self.state = ClusterState(targets=targets, builtin=builtin(**policy), suspended=suspended)
        self.inventories = self.state.inventories
        self.metrics = Metrics()
        self.writer = StatusWriter(
            kube,
            state=self.state,
            events=self,
        )
        self.reader = Reader(
            kube,
            state=self.state,
            status_writer=self.writer,
            metrics=self.metrics,
            clock=clock.now,
            timeout=TIMEOUT,
            slots=asyncio.Semaphore(slots),
        )

    def inventory_changed(self, body: dict[str, Any]) -> None:
        """The watch brings an inventory."""
        self.inventories.put_object(body)

    def inventory_deleted(self, name: str, uid: str) -> None:
        """The watch tells that an inventory is gone."""
        self.inventories.remove(name, uid=uid)

    def see_pod(self, body: Mapping[str, Any], *, deleted: bool = False, target: int = 0) -> None:
        """The watch brings a target pod."""
        container = self.state.pods.targets[target].container
        pod = None if deleted else TargetPod.from_pod(body, container=container)
        meta = body["metadata"]
        self.state.pods.put(target, meta["uid"], pod, version=meta["resourceVersion"])

    def see_policy(self, body: dict[str, Any]) -> None:
        """The watch brings a policy."""
        self.state.policies.put(Policy.from_object(body))

    def see_node(self, body: Mapping[str, Any]) -> None:
        """A list brings a Node."""
        now = asyncio.get_running_loop().time()
        self.state.nodes.put(NodeFacts.from_node(body), requested=now)

    async def node_with_pod(self, name: str = "n1", **pod: Any) -> None:
        """A GPU node whose target pod is seen, a second after the loop began."""
        await asyncio.sleep(1)
        put_node(self.kube, name)
        self.see_pod(put_pod(self.kube, name, **pod))

    async def process(self, name: str = "n1") -> timedelta | None:
        """The reader does what is due for a node."""
        return await self.reader.process(self.state.view(name))

    def due(self, name: str = "n1") -> datetime | None:
        """When the reader wants to read a node."""
        return self.reader.due(self.state.view(name))

    async def process_until(self, name: str, done: Callable[[], bool], *, rounds: int = 20) -> None:
        """Process the node, each time when the last time said, until something is so."""
        for _ in range(rounds):
            wait = await self.process(name)
            if done():
                return
            assert wait is not None
            await asyncio.sleep(max(wait.total_seconds(), 0))
        raise AssertionError("it did not come about")

    def status(self, name: str = "n1") -> dict[str, Any]:
        """The status as the API server has it."""
        status: dict[str, Any] = self.kube.objects[inventory_path(name)]["status"]
        return status

    def ready(self, name: str = "n1") -> tuple[str, str, str]:
        """Status, reason and message of the condition Ready."""
        for condition in self.status(name)["conditions"]:
            if condition["type"] == "Ready":
                return condition["status"], condition["reason"], condition["message"]
        raise AssertionError("there is no condition Ready")

    def history(self, name: str = "n1") -> list[str]:
        """The types of the entries of the history."""
        return [entry["type"] for entry in self.status(name).get("history", ())]

    def reads(self, result: str) -> float:
        """The metric of reads with this result."""
        labels = {"result": result}
        return self.metrics.registry.get_sample_value("gpuid_reads_total", labels) or 0.0

    def prints(self, xml: str) -> None:
        """From now on nvidia-smi prints this."""
        self.kube.exec.answer = ExecAnswer(stdout=xml.encode())
