"""Stores the results of a check runner: one entry in each inventory, and nothing else.

The runner applies its entry without force, under a field manager of its own. The other fields of
the inventories belong to the instance that keeps them and to other runners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Self

from gpuid_operator.api.inventory import CheckStatus, InventoryState
from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.values import whole_seconds
from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.checks.pods import CheckPods
from gpuid_operator.engine.core.listing import fetch_singly
from gpuid_operator.engine.core.turns import in_turns
from gpuid_operator.engine.state.resource_version import newer
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from gpuid_operator.kube.events import EventType
from gpuid_operator.kube.inventories import (
    apply_status,
    create_inventory,
    get_inventory,
    inventory_pages,
)
from gpuid_operator.plan.checks import CheckResult, with_result
from gpuid_operator.plan.ownership import foreign_checks
from gpuid_operator.plan.restarts import CheckOnNode, with_restart
from gpuid_operator.telemetry.metrics import Metrics

_ATTEMPTS: Final = 6

Decision = Callable[[CheckStatus | None], CheckStatus | None]
"""From the entry in the inventory to the next one; None: write nothing."""


@dataclass(frozen=True, slots=True)
class _Inventory:
    """The parts of an inventory that a runner uses."""

    uid: str
    version: str
    checks: tuple[CheckStatus, ...] = ()
    foreign: frozenset[str] = frozenset()
    """The names of the checks that other instances run."""
    departed: bool = False
    suspended: bool = False
    """By the spec of the inventory."""

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

    def check(self, name: str) -> CheckStatus | None:
        return next((check for check in self.checks if check.name == name), None)

    def without_output(self) -> _Inventory:
        no_output = {"stdout": None, "stderr": None}
        return replace(
            self, checks=tuple(check.model_copy(update=no_output) for check in self.checks)
        )


class RunnerResultStore:
    """The results of one check of the environment. See CheckResultStore."""

    def __init__(
        self,
        client: KubeClient,
        job: CheckJob,
        *,
        pods: CheckPods,
        is_suspended: Callable[[str], bool],
        metrics: Metrics,
    ) -> None:
        """`is_suspended` tells whether the settings or a policy suspend a node."""
        self._client = client
        self._job = job
        self._pods = pods
        self._is_suspended = is_suspended
        self._metrics = metrics
        self._manager = f"{MANAGER}-check-{job.name}"
        self._inventories: dict[str, _Inventory] = {}
        self._recorder = EventRecorder(client)

    def jobs(self, node: str) -> Sequence[CheckJob]:
        inventory = self._inventories.get(node)
        suspended = (inventory is not None and inventory.suspended) or self._is_suspended(node)
        return () if suspended else (self._job,)

    def check(self, node: str, name: str) -> CheckStatus | None:
        inventory = self._inventories.get(node)
        return inventory.check(name) if inventory else None

    def known(self) -> Sequence[CheckOnNode]:
        # There may be no instance that marks the inventories of nodes that are gone.
        nodes = self._pods.nodes()
        return [
            CheckOnNode(node, check, present=node in nodes and not inventory.departed)
            for node, inventory in self._inventories.items()
            for check in inventory.checks
        ]

    async def refresh(self) -> None:
        changed = await self._list(only_metadata=bool(self._inventories))
        if not fetch_singly(len(changed), known=len(self._inventories)):
            changed = await self._list(only_metadata=False)
        for node in changed:
            try:
                self._take(await get_inventory(self._client, node))
            except NotFound:
                continue  # it is missing in the next list

    async def _list(self, *, only_metadata: bool) -> list[str]:
        """List all inventories, and forget those that are gone. Returns the names of those to
        fetch."""
        unseen = dict(self._inventories)
        changed: list[str] = []
        async for page in inventory_pages(self._client, only_metadata=only_metadata):
            async for body in in_turns(page["items"]):
                unseen.pop(body["metadata"]["name"], None)
                if "spec" in body or not only_metadata:
                    self._take(body)
                elif self._is_news(body["metadata"]):
                    changed.append(body["metadata"]["name"])
        for node, inventory in unseen.items():
            if self._inventories.get(node) is inventory:  # no write changed it during the list
                del self._inventories[node]
                self._metrics.forget_node(node)
        return changed

    def _take(self, body: dict[str, Any]) -> None:
        self._keep(body["metadata"]["name"], _Inventory.from_object(body, manager=self._manager))

    def _is_news(self, meta: Mapping[str, Any]) -> bool:
        known = self._inventories.get(meta["name"])
        if known is None or known.uid != meta["uid"]:
            return True
        return newer(meta["resourceVersion"], than=known.version)

    async def record(self, node: str, result: CheckResult) -> None:
        await self._write(
            node, lambda before: with_result(before, result), known=self._inventories.get(node)
        )

    async def record_restart(self, node: str, name: str, *, now: datetime) -> bool:
        last = self.check(node, name)
        since = last.last_restart_time if last else None
        # The apply must contain the output, too, which is not kept here: read the entry first.
        stored = await self._write(
            node, lambda before: with_restart(before, since=since, now=now), known=None
        )
        return stored is not None and stored.last_restart_time == whole_seconds(now)

    def record_event(self, node: str, *, reason: str, message: str, type: EventType) -> None:  # noqa: A002
        inventory = self._inventories.get(node)
        if inventory is not None:
            self._recorder.post(node, inventory.uid, reason=reason, message=message, type=type)

    async def close(self, *, within: float) -> None:
        """Wait at most so many seconds until the Events are posted."""
        await self._recorder.finish(within=within)

    async def _write(
        self, node: str, decide: Decision, *, known: _Inventory | None
    ) -> CheckStatus | None:
        """Change the entry of the check in an inventory, which is created if there is none.

        The first attempt decides on `known`, if it is given. Returns the new entry. Raises
        KubeError, also if another instance runs a check of this name.
        """
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._apply(node, known or await self._read(node), decide)
            except (Conflict, NotFound):
                known = None  # another client changed or deleted the inventory
        return await self._apply(node, await self._read(node), decide)

    async def _apply(
        self, node: str, inventory: _Inventory, decide: Decision
    ) -> CheckStatus | None:
        name = self._job.name
        if name in inventory.foreign:
            raise KubeError(
                f"another instance runs a check named {name} on node {node}: rename one of the two"
                " (CHECK_NAME)"
            )
        check = decide(inventory.check(name))
        if check is None:
            return None
        version = await apply_status(
            self._client,
            name=node,
            uid=inventory.uid,
            resource_version=inventory.version,
            # The instance that keeps the inventory owns `recorded`.
            status={"checks": [check.model_copy(update={"recorded": None}).to_json()]},
            manager=self._manager,
            force=False,
        )
        others = (other for other in inventory.checks if other.name != name)
        self._keep(node, replace(inventory, version=version, checks=(*others, check)))
        return check

    async def _read(self, node: str) -> _Inventory:
        """The current inventory of a node, created if there is none."""
        try:
            body = await get_inventory(self._client, node)
        except NotFound:
            try:
                meta = await create_inventory(self._client, name=node, labels={})
            except AlreadyExists:
                body = await get_inventory(self._client, node)
            else:
                return _Inventory(meta.uid, meta.resource_version)
        return _Inventory.from_object(body, manager=self._manager)

    def _keep(self, node: str, inventory: _Inventory) -> None:
        """Store an inventory unless a later version is known."""
        known = self._inventories.get(node)
        if (
            known
            and known.uid == inventory.uid
            and not newer(inventory.version, than=known.version)
        ):
            return
        self._inventories[node] = inventory.without_output()
        check = inventory.check(self._job.name)
        passed = {check.name: check.passed} if check and check.passed is not None else {}
        self._metrics.set_checks(node, passed)
