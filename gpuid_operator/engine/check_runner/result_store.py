"""Where a check runner keeps its results: in one entry of each inventory, and nothing else there.

The entry is applied, unforced, under a field manager of the check's own; what the inventory
instance and other runners write into the same objects is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Self

from gpuid_operator.api.inventory import CheckStatus, InventoryState
from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.values import whole_seconds
from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.checks.pods import CheckPods
from gpuid_operator.engine.state.resource_version import newer
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from gpuid_operator.kube.events import EventType
from gpuid_operator.kube.inventories import (
    InventoryMeta,
    apply_status,
    create_inventory,
    get_inventory,
    list_inventories,
)
from gpuid_operator.plan.checks import CheckResult, with_result
from gpuid_operator.plan.ownership import foreign_checks
from gpuid_operator.plan.restarts import CheckOnNode, with_restart
from gpuid_operator.telemetry.metrics import Metrics

_ATTEMPTS: Final = 6

Decision = Callable[[CheckStatus | None], CheckStatus | None]


@dataclass(frozen=True, slots=True)
class _Found:
    """What a runner needs to know of an inventory."""

    uid: str
    version: str
    checks: tuple[CheckStatus, ...] = ()
    foreign: frozenset[str] = frozenset()
    """The checks that others run."""
    departed: bool = False
    suspended: bool = False
    """By the inventory's own spec."""

    @classmethod
    def from_object(cls, body: dict[str, Any], *, manager: str) -> Self:
        meta, status = body["metadata"], body.get("status") or {}
        return cls(
            uid=meta["uid"],
            version=meta["resourceVersion"],
            checks=tuple(map(CheckStatus.model_validate, status.get("checks") or ())),
            foreign=foreign_checks(meta, manager=manager),
            departed=status.get("state") == InventoryState.DEPARTED,
            suspended=(body.get("spec") or {}).get("suspend") is True,
        )

    def without_output(self) -> _Found:
        checks = tuple(
            check.model_copy(update={"stdout": None, "stderr": None}) for check in self.checks
        )
        return replace(self, checks=checks)

    def check(self, name: str) -> CheckStatus | None:
        return next((check for check in self.checks if check.name == name), None)


class RunnerResultStore:
    """The results of one check of the environment."""

    def __init__(
        self,
        client: KubeClient,
        job: CheckJob,
        *,
        pods: CheckPods,
        suspended: Callable[[str], bool],
        metrics: Metrics,
    ) -> None:
        """`suspended` says whether the settings or a policy suspend a node."""
        self._client = client
        self._job = job
        self._pods = pods
        self._suspended = suspended
        self._metrics = metrics
        self._manager = f"{MANAGER}-check-{job.name}"
        self._found: dict[str, _Found] = {}
        self._recorder = EventRecorder(client)

    def jobs(self, node: str) -> Sequence[CheckJob]:
        found = self._found.get(node)
        return () if (found and found.suspended) or self._suspended(node) else (self._job,)

    def check(self, node: str, name: str) -> CheckStatus | None:
        found = self._found.get(node)
        return found.check(name) if found else None

    def known(self) -> Sequence[CheckOnNode]:
        # Without an inventory instance nobody marks the inventories of nodes that are gone.
        nodes = self._pods.nodes()
        return [
            CheckOnNode(node, check, present=node in nodes and not found.departed)
            for node, found in self._found.items()
            for check in found.checks
        ]

    async def refresh(self) -> None:
        """Take over all inventories as they are now. Raises KubeError."""
        unseen = dict(self._found)
        async for body in list_inventories(self._client):
            node = body["metadata"]["name"]
            unseen.pop(node, None)
            self._keep(node, _Found.from_object(body, manager=self._manager))
        for node, found in unseen.items():
            if self._found.get(node) is found:  # nothing was written there meanwhile
                del self._found[node]
                self._metrics.forget_node(node)

    async def record(self, node: str, result: CheckResult) -> None:
        await self._write(node, lambda before: with_result(before, result))

    async def record_restart(self, node: str, name: str, *, now: datetime) -> bool:
        known = self.check(node, name)
        since = known.last_restart_time if known else None
        # The entry is written whole, and its output is not kept here.
        fresh = await self._read(node)
        noted = await self._write(
            node, lambda before: with_restart(before, since=since, now=now), found=fresh
        )
        return noted is not None and noted.last_restart_time == whole_seconds(now)

    def record_event(self, node: str, *, reason: str, message: str, type: EventType) -> None:  # noqa: A002
        found = self._found.get(node)
        if found is not None:
            self._recorder.post(node, found.uid, reason=reason, message=message, type=type)

    async def finish(self, *, within: float) -> None:
        """Wait for so many seconds at most for the Events that are under way."""
        await self._recorder.finish(within=within)

    async def _write(
        self, node: str, change: Decision, *, found: _Found | None = None
    ) -> CheckStatus | None:
        """Change the check's entry in the node's inventory, which is created where it is missing.

        Raises KubeError, also when another instance has a check of this name.
        """
        found = found or self._found.get(node)
        for attempt in range(1, _ATTEMPTS + 1):
            found = found or await self._read(node)
            if self._job.name in found.foreign:
                raise KubeError(
                    f"check {self._job.name} of {node} is run by another instance, too: give one of"
                    " them another name (CHECK_NAME)"
                )
            check = change(found.check(self._job.name))
            if check is None:
                return None
            try:
                version = await apply_status(
                    self._client,
                    name=node,
                    uid=found.uid,
                    resource_version=found.version,
                    status={"checks": [check.model_copy(update={"recorded": None}).to_json()]},
                    manager=self._manager,
                    force=False,
                )
            except (Conflict, NotFound):
                if attempt == _ATTEMPTS:
                    raise
                found = None
                continue
            others = (other for other in found.checks if other.name != check.name)
            self._keep(node, replace(found, version=version, checks=(*others, check)))
            return check
        return None

    async def _read(self, node: str) -> _Found:
        """The inventory as it is now, a new one where there is none."""
        try:
            body = await get_inventory(self._client, node)
        except NotFound:
            try:
                meta: InventoryMeta = await create_inventory(self._client, name=node, labels={})
            except AlreadyExists:
                body = await get_inventory(self._client, node)
            else:
                return _Found(meta.uid, meta.resource_version)
        return _Found.from_object(body, manager=self._manager)

    def _keep(self, node: str, found: _Found) -> None:
        known = self._found.get(node)
        if known and known.uid == found.uid and not newer(found.version, than=known.version):
            return
        self._found[node] = found.without_output()
        check = found.check(self._job.name)
        passed = {check.name: check.passed} if check and check.passed is not None else {}
        self._metrics.set_checks(node, passed)
