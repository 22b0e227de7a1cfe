"""Writes the statuses of inventories, one write per node at a time.

Callers hand over decisions: pure functions from a status to the next one. Decisions that arrive
during a write of their node share the next write. Each write carries the resourceVersion of the
status that it was decided on; on a conflict the writer reads the inventory again and repeats the
decisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.api.meta import MANAGER
from gpuid_operator.engine.core.background import Background
from gpuid_operator.engine.core.jitter import chance
from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.inventory_events import InventoryEvents
from gpuid_operator.engine.state.node_view import NodeView
from gpuid_operator.engine.writing.inventory_refresh import TRANSIENT, InventoryRefresher
from gpuid_operator.engine.writing.lookup_labels import LookupLabels
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Conflict, KubeError, NotFound
from gpuid_operator.kube.inventories import apply_status, create_inventory
from gpuid_operator.plan.labels import lookup_labels, same_lookup_labels
from gpuid_operator.plan.ownership import owned_fields
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.plan.status_change import StatusChange, StatusContext
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class Decision(Protocol):
    """Decides on the next status, from the present one and from what is in force."""

    def __call__(self, previous: InventoryStatus, /, context: StatusContext) -> StatusChange: ...


_ATTEMPTS: Final = 6
_LONGEST_PAUSE: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class StatusWritten:
    """A write that is done, with the changes that it made."""

    name: str
    uid: str
    before: InventoryStatus
    after: InventoryStatus
    changes: tuple[StatusChange, ...]


class StatusListener(Protocol):
    """Receives each write after it is done. Does not wait for anything."""

    def __call__(self, written: StatusWritten, /) -> None: ...


@dataclass(slots=True)
class _Job:
    """A decision, and the caller who waits until it is written."""

    decide: Decision
    create: bool
    uid: str | None
    result: asyncio.Future[StatusChange | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def applies_to(self, inventory: CachedInventory | None) -> bool:
        return self.uid is None or (inventory is not None and inventory.uid == self.uid)

    def finish(self, outcome: StatusChange | Exception | None) -> None:
        """Answer the caller, unless it was cancelled meanwhile."""
        if self.result.done():
            return
        if isinstance(outcome, Exception):
            self.result.set_exception(outcome)
        else:
            self.result.set_result(outcome)


@dataclass(frozen=True, slots=True)
class _Draft:
    """The result of all decisions of one write."""

    before: InventoryStatus
    after: InventoryStatus
    changes: list[StatusChange | None]
    """The change of each job; None where it does not apply."""


class StatusWriter:
    """Writes statuses and look-up labels of inventories."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        events: InventoryEvents,
        listeners: Sequence[StatusListener] = (),
    ) -> None:
        """`events` receives what the writer finds out about the writes of other clients."""
        self._client = client
        self._state = state
        self._inventories = state.inventories
        self._refresher = InventoryRefresher(client, inventories=state.inventories, events=events)
        self._lookup_labels = LookupLabels(
            client, inventories=state.inventories, refresher=self._refresher
        )
        self._listeners = list(listeners)
        self._jobs: dict[str, list[_Job]] = {}
        self._writing: set[str] = set()
        self._workers = Background()

    def add_listener(self, listener: StatusListener) -> None:
        """Report each write to another listener."""
        self._listeners.append(listener)

    async def write(
        self, name: str, decide: Decision, *, create: bool = False, uid: str | None = None
    ) -> StatusChange | None:
        """Decide on the next status of a node's inventory, write it, and return what changed.

        Returns None where the decision does not apply: the inventory does not exist, and `create`
        is off; it has another uid than `uid`; or the node is to be left alone
        (`NodeView.skip`). Raises KubeError when the write failed; the caller has to try again.
        """
        job = _Job(decide, create, uid)
        self._jobs.setdefault(name, []).append(job)
        if name not in self._writing:
            self._writing.add(name)
            self._workers.start(self._work(name))
        return await job.result

    def labels_changed(self, name: str) -> None:
        """An inventory was found, or another client changed it: `retry_labels` repairs its
        labels."""
        self._lookup_labels.changed(name)

    async def retry_labels(self, name: str) -> None:
        """Write the look-up labels of an inventory if the last attempt failed, or `labels_changed`
        found others than its status asks for."""
        await self._lookup_labels.retry(name)

    def is_writing(self, name: str) -> bool:
        """Whether a decision about a node is not written yet."""
        return name in self._writing

    async def finish(self, *, within: float) -> bool:
        """Write what was handed over, and abandon what is left after this many seconds.

        Returns whether everything was written. Callers of `write` must have ended before: nobody
        answers them after an abandoned write.
        """
        return await self._workers.finish(within=within)

    async def _work(self, name: str) -> None:
        """Serve the jobs of a node until there are none."""
        try:
            while jobs := self._jobs.pop(name, None):
                await self._serve(name, jobs)
        finally:
            self._writing.discard(name)

    async def _serve(self, name: str, jobs: Sequence[_Job]) -> None:
        outcomes: Sequence[StatusChange | Exception | None]
        try:
            outcomes = await self._persist(name, jobs)
        except KubeError as error:
            outcomes = [error] * len(jobs)
        except Exception as error:
            _log.exception("failed to decide on status", node=name)
            outcomes = [error] * len(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.finish(outcome)

    async def _persist(self, name: str, jobs: Sequence[_Job]) -> list[StatusChange | None]:
        """Write, and repeat it where the object changed or the server did not answer."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._write(name, jobs)
            except NotFound:
                # A user deleted the object: decisions on its status are void.
                self._refresher.forget(name)
                if attempt == _ATTEMPTS:
                    raise
            except (Conflict, *TRANSIENT) as error:
                if attempt == _ATTEMPTS:
                    raise
                if not isinstance(error, Conflict):
                    pause = backoff(attempt, chance=chance(), most=_LONGEST_PAUSE)
                    await asyncio.sleep(pause.total_seconds())
                # The server may have done what it did not answer: decide on what is there.
                await self._refresher.refresh(name)

    async def _write(self, name: str, jobs: Sequence[_Job]) -> list[StatusChange | None]:
        view = self._state.view(name)
        exists = view.inventory is not None or any(job.create for job in jobs)
        if view.skip is not None or not exists:
            return [None] * len(jobs)
        draft = _decide(jobs, view, self._inventories.status(name))
        inventory = view.inventory
        if inventory is None:
            inventory, labelled = await self._create(name, draft.after)
        else:
            labelled = inventory.state is not None and same_lookup_labels(draft.before, draft.after)
        if draft.after != draft.before or inventory.state is None:
            await self._apply(inventory, draft, labelled=labelled)
        return draft.changes

    async def _create(self, name: str, status: InventoryStatus) -> tuple[CachedInventory, bool]:
        """Create an inventory with the labels of a status that is yet to be written. Returns what
        is known of it, and whether it is known to have these labels."""
        labels = lookup_labels(status)
        meta = await create_inventory(self._client, name=name, labels=labels)
        inventory = self._inventories.put_created(name, meta, labels=labels)
        return inventory, inventory.resource_version == meta.resource_version

    async def _apply(self, inventory: CachedInventory, draft: _Draft, *, labelled: bool) -> None:
        body = draft.after.to_json()
        version = await apply_status(
            self._client,
            name=inventory.name,
            uid=inventory.uid,
            resource_version=inventory.resource_version,
            status=owned_fields(body, foreign=inventory.foreign_checks),
            manager=MANAGER,
            force=True,
        )
        self._inventories.put_status(inventory.name, draft.after, body, resource_version=version)
        if labelled:
            await self._lookup_labels.retry(inventory.name)
        else:
            await self._lookup_labels.sync(inventory.name)
        changes = tuple(change for change in draft.changes if change is not None)
        written = StatusWritten(inventory.name, inventory.uid, draft.before, draft.after, changes)
        for listener in self._listeners:
            listener(written)


def _decide(jobs: Sequence[_Job], view: NodeView, before: InventoryStatus) -> _Draft:
    """Let each job that applies decide on what the jobs before it made of the status."""
    context = view.status_context
    after = before
    changes: list[StatusChange | None] = []
    for job in jobs:
        change = None
        if job.applies_to(view.inventory):
            change = job.decide(after, context=context)
            after = change.status
        changes.append(change)
    return _Draft(before, after, changes)
