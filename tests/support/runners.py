"""A check runner on the fake API server."""

from __future__ import annotations

from typing import Any

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.engine.check_runner.runner import CheckRunner
from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.kube.client import APPLY_PATCH
from gpuid_operator.telemetry.metrics import Metrics
from tests.support import clock
from tests.support.checks import SOURCE, job
from tests.support.kube import FakeKube
from tests.support.objects import inventory_path, put_pod, put_policy

RUNNER = f"{MANAGER}-check-c"


class RunnerBench:
    """A check runner, and the events that it receives."""

    def __init__(
        self,
        kube: FakeKube,
        check: CheckJob | None = None,
        *,
        suspended: bool = False,
        workers: int = 2,
        per_hour: int = 20,
    ) -> None:
        self.kube = kube
        self.job = check or job()
        self.metrics = Metrics()
        self.runner = CheckRunner(
            kube,
            self.job,
            workers=workers,
            per_hour=per_hour,
            suspended=suspended,
            metrics=self.metrics,
            clock=clock.now,
        )

    async def start(self) -> None:
        await self.runner.start()

    async def stop(self) -> None:
        await self.runner.stop(within=10)

    def pod(self, node: str, *, deleted: bool = False, **fields: Any) -> dict[str, Any]:
        """Create or change a pod, and pass its event on."""
        body = put_pod(self.kube, node, **fields)
        self.runner.pod_event(SOURCE, body, deleted=deleted)
        return body

    def policy(self, name: str, **spec: Any) -> dict[str, Any]:
        """Create or change a policy, and pass its event on."""
        body = put_policy(self.kube, name, **spec)
        self.runner.policy_event(body, deleted=False)
        return body

    def result(self, node: str) -> dict[str, Any] | None:
        """The result of the check in the status on the API server."""
        body = self.kube.objects.get(inventory_path(node)) or {}
        checks = (body.get("status") or {}).get("checks") or ()
        return next((item for item in checks if item["name"] == self.job.name), None)

    def asked(self, node: str) -> list[float]:
        """When the check ran on a node, in seconds of the loop's clock."""
        return [call.time for call in self.kube.exec.calls if call.pod == f"plugin-{node}"]


async def apply_as(kube: FakeKube, manager: str, node: str, **status: Any) -> None:
    """Apply a status as another field manager does."""
    await kube.request(
        "PATCH",
        f"{inventory_path(node)}/status",
        params={"fieldManager": manager, "force": "true"},
        body={"metadata": {"name": node}, "status": status},
        content_type=APPLY_PATCH,
    )
