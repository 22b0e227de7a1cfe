"""The check runner: an instance that runs one command on each node, and keeps no inventory.

It works beside an inventory instance or without one. In an inventory it owns the entry of its own
check and nothing else: applied, unforced, under a field manager of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from gpuid_operator.api.inventory import CheckStatus, Inventory
from gpuid_operator.api.meta import API_VERSION, INVENTORY_KIND, MANAGER
from gpuid_operator.engine.check_pods import CheckJob, CheckPods
from gpuid_operator.engine.check_runs import CheckRuns
from gpuid_operator.engine.engine import utcnow
from gpuid_operator.engine.resync import PERIOD, list_source
from gpuid_operator.engine.sources import Source
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from gpuid_operator.kube.events import EventType, Involved, post_event
from gpuid_operator.kube.inventories import (
    apply_status,
    create_inventory,
    get_inventory,
    list_inventories,
)
from gpuid_operator.plan.checks import CheckResult, with_restart, with_result
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

_ATTEMPTS: Final = 6


class CheckRunner:
    """One check of the environment on all nodes that have a pod for it."""

    def __init__(
        self,
        client: KubeClient,
        job: CheckJob,
        *,
        workers: int,
        per_hour: int,
        suspended: bool,
        metrics: Metrics,
        clock: Callable[[], datetime] = utcnow,
        resync_period: timedelta = PERIOD,
    ) -> None:
        self._client = client
        self._job = job
        self._suspended = suspended
        self._resync_period = resync_period.total_seconds()
        self._pods = CheckPods()
        self._pods.want([job])
        # By node: the inventory's uid and the last result.
        self._known: dict[str, tuple[str, CheckStatus]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.sources_changed = asyncio.Event()
        """Never set: the one source stays."""
        self._runs = CheckRuns(
            client,
            pods=self._pods,
            book=self,
            slots=asyncio.Semaphore(workers),
            workers=workers,
            per_hour=per_hour,
            metrics=metrics,
            clock=clock,
        )

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self._job.source,)

    @property
    def manager(self) -> str:
        """The field manager of this runner's results."""
        return f"{MANAGER}-check-{self._job.name}"

    async def start(self) -> None:
        """List what is known, then begin. Raises KubeError."""
        await self._list()
        for work in self._runs.works():
            self._spawn(work)
        self._spawn(self._resync_for_ever())

    async def stop(self, *, within: float) -> None:
        """Stop; what is being run is given up within that many seconds."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within)

    def pod_event(self, source: Source, body: dict[str, Any], *, deleted: bool) -> None:
        self._runs.add(self._pods.put(source, body, deleted=deleted))

    def inventory_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        """Not watched: the results are this runner's own."""

    def policy_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        """Not watched: policies are not asked."""

    # What CheckRuns asks for

    def jobs(self, node: str) -> Sequence[CheckJob]:
        return () if self._suspended else (self._job,)

    def check(self, node: str, name: str) -> CheckStatus | None:
        known = self._known.get(node)
        return known[1] if known else None

    def all(self) -> Iterable[CheckStatus]:
        return [check for _, check in self._known.values()]

    async def note(self, node: str, result: CheckResult) -> None:
        await self._write(node, lambda before: with_result(before, result))

    async def note_restart(self, node: str, name: str, *, now: datetime) -> None:
        await self._write(
            node, lambda before: with_restart(before or CheckStatus(name=name), now=now)
        )

    def tell(self, node: str, *, reason: str, message: str, type: EventType) -> None:  # noqa: A002
        known = self._known.get(node)
        if known is not None:
            involved = Involved(API_VERSION, INVENTORY_KIND, node, known[0])
            self._spawn(
                post_event(
                    self._client, involved=involved, reason=reason, message=message, type=type
                )
            )

    async def _write(self, node: str, change: Callable[[CheckStatus | None], CheckStatus]) -> None:
        """Change the check's entry in the node's inventory, which is created where it is missing.

        Raises KubeError, also when another manager has a check of this name.
        """
        error: KubeError | None = None
        for _ in range(_ATTEMPTS):
            try:
                found = Inventory.from_object(await get_inventory(self._client, node))
            except NotFound:
                with contextlib.suppress(AlreadyExists):
                    await create_inventory(self._client, name=node, labels={})
                continue
            before = self._mine(found)
            check = change(before)
            body = check.model_copy(update={"recorded": None}).to_json()
            try:
                await apply_status(
                    self._client,
                    name=node,
                    uid=found.uid,
                    resource_version=found.resource_version,
                    status={"checks": [body]},
                    manager=self.manager,
                    force=False,
                )
            except Conflict as conflict:
                error = conflict  # changed meanwhile, or the check is somebody else's
                continue
            self._keep(node, found.uid, check)
            return
        assert error is not None  # noqa: S101 - an attempt that does not end with one returns
        raise error

    def _mine(self, inventory: Inventory) -> CheckStatus | None:
        checks = inventory.status.checks or ()
        return next((check for check in checks if check.name == self._job.name), None)

    def _keep(self, node: str, uid: str, check: CheckStatus) -> None:
        self._known[node] = (uid, check.model_copy(update={"stdout": None, "stderr": None}))

    async def _list(self) -> None:
        await list_source(self._client, self._pods, self._job.source)
        found: set[str] = set()
        async for body in list_inventories(self._client):
            inventory = Inventory.from_object(body)
            check = self._mine(inventory)
            if check is not None:
                found.add(inventory.name)
                self._keep(inventory.name, inventory.uid, check)
        for name in self._known.keys() - found:
            del self._known[name]
        self._runs.add(self._pods.nodes())

    async def _resync_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._resync_period)
            try:
                await self._list()
            except KubeError as error:
                _log.warning("the re-sync failed", error=error.message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
