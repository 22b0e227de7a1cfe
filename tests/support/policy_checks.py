"""The checks of policies on the fake API server, without the rest of the engine."""

from __future__ import annotations

import asyncio
from typing import Any

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.engine.checks.policy_checks import PolicyChecks
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.kube.inventories import list_inventories
from gpuid_operator.kube.nodes import list_nodes
from gpuid_operator.kube.policies import list_policies
from tests.support import clock
from tests.support.checks import SOURCE
from tests.support.engines import TARGET, builtin
from tests.support.kube import FakeKube
from tests.support.objects import CONTAINER, inventory_path, put_inventory, put_pod


def check(name: str = "c", *, app: str | None = None, **fields: Any) -> dict[str, Any]:
    """A check in the form of a policy, in the pods of the device plugin or of `app`."""
    labels = {"app": app or SOURCE.selector.partition("=")[2]}
    given = {
        "name": name,
        "podSelector": {"matchLabels": labels},
        "container": CONTAINER,
        "command": f"run-{name}",
    }
    return given | fields


def source(app: str) -> PodSelector:
    """The pods of an app."""
    return PodSelector(SOURCE.namespace, f"app={app}")


def owned(manager: str, *names: str) -> dict[str, Any]:
    """An entry of managedFields: the manager owns the results of these checks."""
    checks: dict[str, Any] = {f'k:{{"name":"{name}"}}': {".": {}, "f:passed": {}} for name in names}
    return {"manager": manager, "fieldsV1": {"f:status": {"f:checks": checks}}}


def put_foreign(kube: FakeKube, node: str, *names: str, **status: Any) -> dict[str, Any]:
    """An inventory in which another instance owns the results of checks of these names."""
    checks = [{"name": name, "passed": True, "transitions": 0} for name in names]
    put_inventory(kube, node, status={"state": "Present", "checks": checks} | status)
    managers = [owned(f"{MANAGER}-check-x", *names)]
    return kube.change(
        inventory_path(node), lambda body: body["metadata"].update(managedFields=managers)
    )


class PolicyBench:
    """PolicyChecks with a status writer and the state of the cluster."""

    def __init__(
        self, kube: FakeKube, *, allowed: bool = True, workers: int = 4, per_hour: int = 20
    ) -> None:
        self.kube = kube
        self.state = ClusterState(targets=(TARGET,), builtin=builtin(), checks_allowed=allowed)
        self.inventories = self.state.inventories
        self.recorder = EventRecorder(kube)
        self.status_writer = StatusWriter(
            kube,
            state=self.state,
            events=self,
        )
        self.checks = PolicyChecks(
            kube,
            state=self.state,
            status_writer=self.status_writer,
            recorder=self.recorder,
            slots=asyncio.Semaphore(workers),
            workers=workers,
            allowed=allowed,
            per_hour=per_hour,
            timings=DEFAULT_TIMINGS,
            clock=clock.now,
        )
        self._tasks: list[asyncio.Task[None]] = []

    def inventory_changed(self, body: dict[str, Any]) -> None:
        self.inventories.put_object(body)

    def inventory_deleted(self, name: str, uid: str) -> None:
        self.inventories.remove(name, uid=uid)

    async def look(self) -> None:
        """Store the policies, nodes and inventories of the cluster, as a resync does."""
        self.state.policies.take_all(await list_policies(self.kube))
        requested = asyncio.get_running_loop().time()
        async for facts in list_nodes(self.kube):
            self.state.nodes.put(facts, requested=requested)
        async for body in list_inventories(self.kube):
            self.inventories.put_object(body)

    async def start(self) -> None:
        await self.look()
        await self.checks.follow()

        async def keep(loop: Any) -> None:
            await loop()

        self._tasks += [asyncio.create_task(keep(loop)) for loop in self.checks.loops()]

    async def policies_changed(self) -> None:
        """Store changed policies and pass their events on."""
        await self.look()
        self.checks.stop_unwanted()
        self.checks.policies_changed()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.status_writer.finish(within=10)
        await self.recorder.finish(within=10)

    def pod(self, node: str, *, app: str | None = None, **fields: Any) -> dict[str, Any]:
        """Create or change a pod of the device plugin or of `app`, and pass its event on."""
        if app is not None:
            fields = {"name": f"{app}-{node}", "labels": {"app": app}} | fields
        body = put_pod(self.kube, node, **fields)
        self.checks.pod_event(source(app) if app else SOURCE, body, deleted=False)
        return body

    def status(self, node: str) -> dict[str, Any]:
        body = self.kube.objects.get(inventory_path(node)) or {}
        status: dict[str, Any] = body.get("status") or {}
        return status

    def result(self, node: str, name: str = "c") -> dict[str, Any] | None:
        """The result of a check in the status on the API server."""
        checks = self.status(node).get("checks") or ()
        return next((item for item in checks if item["name"] == name), None)

    def commands(self) -> list[tuple[str, str]]:
        """Pod and command of each run."""
        return [(call.pod, call.command[-1]) for call in self.kube.exec.calls]
