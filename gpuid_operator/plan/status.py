"""The next status of an inventory, as pure functions of the previous status and new facts.

Each function returns the whole next status and the entries that it adds to the history, so that
one write commits facts and history together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from gpuid_operator.api.inventory import (
    GPU,
    ConditionStatus,
    ConditionType,
    HistoryEntry,
    HistoryType,
    InventoryState,
    InventoryStatus,
    NodeInfo,
    Source,
)
from gpuid_operator.api.values import truncate, whole_seconds
from gpuid_operator.plan import conditions, history
from gpuid_operator.plan.conditions import ConditionUpdate
from gpuid_operator.plan.diff import (
    HistoryWriter,
    gpu_entries,
    machine_change,
    rebooted,
    removed,
    sighting,
)
from gpuid_operator.plan.failure import FailureReason
from gpuid_operator.plan.identity import Match, key, match
from gpuid_operator.plan.removals import split_missing
from gpuid_operator.plan.schedule import is_ahead
from gpuid_operator.plan.smi import Reading
from gpuid_operator.plan.status_change import (
    PendingRemovals,
    StatusChange,
    StatusContext,
    build_change,
    writer_of,
)
from gpuid_operator.plan.summary import summary

MAX_REQUEST: Final = 1024

_SUSPENDED: Final = "Suspended"
_READS_SUSPENDED: Final = "reads are suspended"


def request_token(annotation: str) -> str:
    """The token of `requestedAt` in the form in which `lastHandledRequest` stores it."""
    return truncate(annotation, MAX_REQUEST)


def after_read(
    previous: InventoryStatus,
    reading: Reading,
    *,
    source: Source,
    node: NodeInfo,
    now: datetime,
    context: StatusContext,
    request: str | None = None,
    pending_removals: PendingRemovals | None = None,
    through_claim: bool = False,
) -> StatusChange:
    """The status after a successful read.

    `request` is the token that asked for this read. With `through_claim`, the container may see
    the devices of its resource claim only, so a GPU that ResourceSlices publish stays.

    While the absence of a GPU awaits a second read, the status keeps the GPU as last known, also
    under a new driver, and `source`, `lastReadTime` and the driver's versions do not advance.
    """
    # A node that returns has no GPUs to compare with: its departure removed them.
    departed = previous.state is InventoryState.DEPARTED
    found = match(() if departed else previous.gpus or (), reading.gpus)
    missing = split_missing(
        found,
        published=context.published if through_claim else None,
        moved=machine_change(previous.node, node) is not None,
        certain=rebooted(previous.node, node),
        reading=reading,
        pending_removals=pending_removals,
        now=now,
    )
    unconfirmed = missing.unconfirmed
    gpus = sorted(
        (*(gpu for _, gpu in found.kept), *found.added, *unconfirmed, *missing.unclaimed),
        key=lambda gpu: (gpu.pci_address is None, gpu.pci_address or "", gpu.uuid or ""),
    )
    writer = HistoryWriter(
        sequence=previous.sequence,
        now=now,
        machine=node.machine,
        source=f"{source.namespace}/{source.pod}",
        driver=reading.driver_version,
    )
    first = previous.gpus is None
    entries = [
        *_node_entries(writer, previous, node, driver_read=not unconfirmed),
        *gpu_entries(
            writer,
            found=Match(kept=found.kept, added=found.added, missing=missing.gone),
            driver_changed=not first and previous.driver_version != reading.driver_version,
            left=previous.node.machine if previous.node else None,
        ),
    ]
    new_container = not unconfirmed and (
        previous.source is None or previous.source.container_id != source.container_id
    )
    unseen = (*unconfirmed, *missing.unclaimed)
    seen = [gpu for gpu in gpus if gpu not in unseen] if unseen else gpus
    if seen and (
        new_container
        or any(entry.type in history.IDENTITY for entry in entries)
        or _sighting_due(previous, context.sighting_interval, now)
    ):
        entries.append(sighting(writer, seen))
    facts: dict[str, Any] = {
        "state": InventoryState.PRESENT,
        "node": node,
        "gpus": gpus,
        **summary(gpus),
    }
    if not unconfirmed:
        facts |= {
            "source": source,
            "last_read_time": whole_seconds(now),
            "driver_version": reading.driver_version,
            "cuda_version": reading.cuda_version,
        }
    if request is not None:
        facts["last_handled_request"] = request_token(request)
    change = build_change(
        previous,
        facts,
        entries,
        writer=writer,
        context=context,
        updates={
            ConditionType.READY: _ready(context, found.unread, missing.unclaimed),
            ConditionType.HEALTHY: conditions.healthy(gpus),
        },
    )
    if not unconfirmed:
        return change
    keys = frozenset(map(key, unconfirmed))
    since = now
    if pending_removals and keys <= pending_removals.keys:
        since = pending_removals.since
    return StatusChange(change.status, change.entries, PendingRemovals(keys, since), change.dropped)


def _node_entries(
    writer: HistoryWriter, previous: InventoryStatus, node: NodeInfo, *, driver_read: bool
) -> Iterator[HistoryEntry]:
    """Entries about the node as a whole; with `driver_read`, the status advances to the driver."""
    if previous.state is InventoryState.DEPARTED:
        yield _returned(writer, previous, node)
        return
    if moved := machine_change(previous.node, node):
        yield writer.entry(
            HistoryType.MACHINE_CHANGED,
            from_=moved[0],
            to=moved[1],
            message=f"the machine behind the node name changed from {moved[0]} to {moved[1]}",
        )
    driver = (previous.driver_version, writer.driver)
    known = driver_read and previous.gpus is not None
    if known and driver[0] != driver[1] and None not in driver:
        yield writer.entry(HistoryType.DRIVER_CHANGED, from_=driver[0], to=driver[1])


def _returned(writer: HistoryWriter, previous: InventoryStatus, node: NodeInfo) -> HistoryEntry:
    machine = previous.node.machine if previous.node else None
    changed = machine not in (None, node.machine)
    return writer.entry(
        HistoryType.NODE_RETURNED,
        from_=machine if changed else None,
        to=node.machine if changed else None,
    )


def _sighting_due(previous: InventoryStatus, interval: timedelta, now: datetime) -> bool:
    last = next(
        (e.time for e in reversed(previous.history or ()) if e.type is HistoryType.SIGHTED), None
    )
    if last is None or interval <= timedelta(0):
        return last is None
    return now - last >= interval or is_ahead(last, now=now)


def _ready(
    context: StatusContext,
    unread: Sequence[tuple[str, GPU]] = (),
    unclaimed: Sequence[GPU] = (),
) -> ConditionUpdate:
    if context.suspended:
        return ConditionUpdate(ConditionStatus.TRUE, _SUSPENDED, _READS_SUSPENDED)
    return conditions.read_ok(unread, unclaimed)


def _suspended(previous: InventoryStatus) -> ConditionUpdate:
    """Suspension keeps the status of `Ready`; reads in progress do not change it."""
    ready = conditions.find(previous.conditions, ConditionType.READY)
    status = ready.status if ready else ConditionStatus.UNKNOWN
    return ConditionUpdate(status, _SUSPENDED, _READS_SUSPENDED)


def after_failure(
    previous: InventoryStatus,
    *,
    reason: FailureReason,
    message: str,
    node: NodeInfo | None,
    now: datetime,
    context: StatusContext,
    request: str | None = None,
) -> StatusChange:
    """The status after a read that failed or found no target pod: it keeps the last good facts and
    sets `Ready=False`."""
    facts: dict[str, Any] = {}
    if previous.state is None:
        facts["state"] = InventoryState.PRESENT
    if previous.node is None and node is not None:
        # Only a successful read updates known node facts: it compares them to detect that another
        # machine is behind the name.
        facts["node"] = node
    if request is not None:
        facts["last_handled_request"] = request_token(request)
    updates: dict[ConditionType, ConditionUpdate | None] = {
        ConditionType.READY: _suspended(previous)
        if context.suspended
        else ConditionUpdate(ConditionStatus.FALSE, reason.value, message)
    }
    if previous.gpus is None:
        updates[ConditionType.HEALTHY] = conditions.healthy(None)
    return build_change(
        previous, facts, [], writer=writer_of(previous, now), context=context, updates=updates
    )


def after_departure(
    previous: InventoryStatus, *, now: datetime, context: StatusContext
) -> StatusChange:
    """The status after node and pod are gone; `gpus` keeps the last known GPUs."""
    if previous.state is InventoryState.DEPARTED:
        return StatusChange(previous)
    writer = writer_of(previous, now)
    entries = [removed(writer, gpu, machine=writer.machine) for gpu in previous.gpus or ()]
    entries.append(writer.entry(HistoryType.NODE_DEPARTED))
    gone = "the node is gone; its GPUs are listed as last known"
    return build_change(
        previous,
        {"state": InventoryState.DEPARTED},
        entries,
        writer=writer,
        context=context,
        updates={
            ConditionType.READY: ConditionUpdate(
                ConditionStatus.FALSE, FailureReason.NODE_NOT_FOUND.value, gone
            ),
            ConditionType.HEALTHY: ConditionUpdate(ConditionStatus.UNKNOWN, "NodeDeparted", gone),
        },
    )


def reconsidered(
    previous: InventoryStatus, *, now: datetime, context: StatusContext
) -> StatusChange:
    """The status under a new context (policy, sinks, suspension), without a read."""
    updates: dict[ConditionType, ConditionUpdate | None] = {}
    ready = conditions.find(previous.conditions, ConditionType.READY)
    if previous.state is InventoryState.DEPARTED:
        pass  # There is nothing to read, suspended or not.
    elif context.suspended:
        updates[ConditionType.READY] = _suspended(previous)
    elif ready is not None and ready.reason == _SUSPENDED:
        # The reason of a failure comes back with the next read, which is due now.
        updates[ConditionType.READY] = (
            _ready(context)
            if ready.status is ConditionStatus.TRUE
            else ConditionUpdate(
                ready.status,
                "Resumed",
                "the node was not ready when it was suspended; a read is due",
            )
        )
    return build_change(
        previous, {}, [], writer=writer_of(previous, now), context=context, updates=updates
    )
