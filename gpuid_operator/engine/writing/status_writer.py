"""The one writer of inventories: changes of one node become one status write at a time.

Every change is a pure function of the status. Changes that come while a write of their node is
under way share the next one. Each write carries the resourceVersion that it was decided on; where
the object is another by now, it is read again and the changes are decided anew.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.api.meta import MANAGER
from gpuid_operator.engine.core.background import Background
from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import (
    AlreadyExists,
    ApiUnreachable,
    Conflict,
    KubeError,
    NotFound,
    ServerError,
    TooManyRequests,
)
from gpuid_operator.kube.inventories import (
    apply_status,
    create_inventory,
    get_inventory,
    patch_inventory_labels,
)
from gpuid_operator.plan.labels import lookup_changes, lookup_labels
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.plan.status_change import StatusChange, StatusContext
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

Decision = Callable[[InventoryStatus, StatusContext], StatusChange]
"""A decision: from the status as it is and the terms in force to the next status."""

_ATTEMPTS: Final = 6
_LONGEST_PAUSE: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class StatusWritten:
    """What one write changed, for those who want to know."""

    name: str
    uid: str
    before: InventoryStatus
    after: InventoryStatus
    changes: tuple[StatusChange, ...]


class StatusListener(Protocol):
    """Is told of each write after it is done; must not wait for anything."""

    def __call__(self, written: StatusWritten, /) -> None: ...


@dataclass(slots=True)
class _Job:
    decide: Decision
    create: bool
    uid: str | None
    result: asyncio.Future[StatusChange | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class StatusWriter:
    """Writes statuses and look-up labels of inventories."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        clock: Callable[[], datetime],
        found: Callable[[dict[str, Any]], None],
        gone: Callable[[str, str], None],
        listeners: Sequence[StatusListener] = (),
    ) -> None:
        """`found` gets an inventory as the API gives it, to be taken over where it is news; `gone`
        the name and uid of one that is not there any more."""
        self._client = client
        self._inventories = state.inventories
        self._state = state
        self._clock = clock
        self._found = found
        self._gone = gone
        self._listeners = list(listeners)
        self._jobs: dict[str, list[_Job]] = {}
        self._writing: set[str] = set()
        self._writers = Background()
        self._unlabelled: set[str] = set()

    def add_listener(self, listener: StatusListener) -> None:
        """Tell this one, too, of each write."""
        self._listeners.append(listener)

    async def write(
        self, name: str, decide: Decision, *, create: bool = False, uid: str | None = None
    ) -> StatusChange | None:
        """Bring a change into the node's inventory and wait until it is written.

        With `create`, an inventory that is missing is created; without, None comes back for it.
        With `uid`, the change is for that very object: None comes back for a later one of the name.
        Raises KubeError when it could not be written; then the caller has to come again.
        """
        job = _Job(decide, create, uid)
        self._jobs.setdefault(name, []).append(job)
        if name not in self._writing:
            self._writing.add(name)
            self._writers.start(self._work(name))
        return await job.result

    def is_writing(self, name: str) -> bool:
        """Whether a write of the node's inventory is under way or waits."""
        return name in self._writing

    async def finish(self, *, within: float) -> bool:
        """Wait for so many seconds at most until what was handed over is written, and give up the
        rest; whoever waits for it has to be ended before. Whether nothing was given up."""
        return await self._writers.finish(within=within)

    async def _work(self, name: str) -> None:
        try:
            while jobs := self._jobs.pop(name, None):
                try:
                    results = await self._persist(name, jobs)
                except Exception as error:
                    if not isinstance(error, KubeError):
                        _log.exception("a status could not be written", node=name)
                    for job in jobs:
                        if not job.result.done():
                            job.result.set_exception(error)
                else:
                    for job, result in zip(jobs, results, strict=True):
                        if not job.result.done():
                            job.result.set_result(result)
        finally:
            self._writing.discard(name)

    async def _persist(self, name: str, jobs: Sequence[_Job]) -> list[StatusChange | None]:
        """Write, again where the object changed or the server did not answer."""
        tries = 0
        while True:
            tries += 1
            try:
                return await self._write(name, jobs)
            except (Conflict, ApiUnreachable, ServerError, TooManyRequests) as error:
                if tries == _ATTEMPTS:
                    raise
                if not isinstance(error, Conflict):
                    pause = backoff(tries, chance=random.random(), most=_LONGEST_PAUSE)  # noqa: S311
                    await asyncio.sleep(pause.total_seconds())
                # Whether a write without an answer was done is unknown, too: see what is there.
                await self._refresh(name)
            except NotFound:
                # The user deleted it: what was decided on it is void.
                self._forget(name)
                if tries == _ATTEMPTS:
                    raise

    async def _refresh(self, name: str) -> None:
        try:
            await self._take(name)
        except NotFound:
            self._forget(name)
        except (ApiUnreachable, ServerError, TooManyRequests) as error:
            _log.debug("could not look", node=name, error=error.message)

    async def _take(self, name: str) -> None:
        """Read what another made of an inventory. Its event will bring no news then, so that this
        is what tells of a read that is asked for, or of another spec."""
        self._found(await get_inventory(self._client, name))

    def _forget(self, name: str) -> None:
        cached = self._inventories.get(name)
        if cached is not None:
            self._gone(name, cached.uid)

    async def _write(self, name: str, jobs: Sequence[_Job]) -> list[StatusChange | None]:
        cached = self._inventories.get(name)
        creates = cached is not None or any(job.create for job in jobs)
        if not creates or self._state.skip_reason(name) is not None:
            return [None] * len(jobs)
        effective = self._state.effective_policy(name, cached)
        context = effective.status_context(
            cached.generation if cached else 1,
            foreign=cached.foreign_checks if cached else frozenset(),
        )
        before = status = self._inventories.status(name)
        changes: list[StatusChange | None] = []
        for job in jobs:
            if job.uid is not None and (cached is None or cached.uid != job.uid):
                changes.append(None)
                continue
            change = job.decide(status, context)
            changes.append(change)
            status = change.status
        if cached is None:
            cached = await self._create(name, lookup_labels(status))
        if status != before or cached.state is None:
            body = status.to_json()
            version = await apply_status(
                self._client,
                name=name,
                uid=cached.uid,
                resource_version=cached.resource_version,
                status=_owned(body, cached),
                manager=MANAGER,
                force=True,
            )
            self._inventories.put_status(name, status, body, resource_version=version)
            await self._label(name)
            done = tuple(change for change in changes if change is not None)
            written = StatusWritten(name, cached.uid, before, status, done)
            for listener in self._listeners:
                listener(written)
        return changes

    async def _create(self, name: str, labels: dict[str, str]) -> CachedInventory:
        try:
            meta = await create_inventory(self._client, name=name, labels=labels)
        except AlreadyExists:
            await self._take(name)
            raise  # decided on nothing; decide on what is there
        self._inventories.put_created(name, meta, labels=labels)
        cached = self._inventories.get(name)
        assert cached is not None  # noqa: S101 - put just now, and nothing ran in between
        return cached

    async def _label(self, name: str) -> None:
        """Bring the look-up labels in line with the status. What fails is tried again with the next
        look at the node, at the re-sync at the latest."""
        self._unlabelled.add(name)
        for _ in range(_ATTEMPTS):
            cached = self._inventories.get(name)
            wanted = lookup_labels(self._inventories.status(name))
            changes = lookup_changes(cached.labels, wanted) if cached else {}
            if cached is None or not changes:
                self._unlabelled.discard(name)
                return
            try:
                version = await patch_inventory_labels(
                    self._client,
                    name=name,
                    resource_version=cached.resource_version,
                    changes=changes,
                )
            except Conflict:
                await self._refresh(name)
            except KubeError as error:
                _log.warning("look-up labels were not written", node=name, error=error.message)
                return
            else:
                merged = {**cached.labels, **changes}
                labels = {key: value for key, value in merged.items() if value is not None}
                self._inventories.put_labels(name, labels, resource_version=version)

    async def repair_labels(self, name: str) -> None:
        """Write the look-up labels of an inventory if they are not what its status asks for."""
        await self._label(name)

    async def retry_labels(self, name: str) -> None:
        """Write the look-up labels of an inventory if they could not be written before."""
        if name in self._unlabelled:
            await self._label(name)


def _owned(body: dict[str, Any], cached: CachedInventory) -> dict[str, Any]:
    """The fields of a status that this instance owns: all, but of a check that another instance
    runs only how many of its transitions are in history."""
    if not cached.foreign_checks:
        return body
    checks = []
    for check in body.get("checks", ()):
        if check["name"] not in cached.foreign_checks:
            checks.append(check)
        elif check.get("recorded") is not None:
            checks.append({"name": check["name"], "recorded": check["recorded"]})
    return body | {"checks": checks}
