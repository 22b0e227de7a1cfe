"""What all changes of a status share: their context, and the fields that follow from facts and
entries (bounded history, sink cursors, conditions)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from gpuid_operator.api.inventory import (
    ConditionType,
    HistoryEntry,
    HistoryType,
    InventoryState,
    InventoryStatus,
)
from gpuid_operator.api.policy import Expectation
from gpuid_operator.plan import conditions, history, outbox
from gpuid_operator.plan.conditions import ConditionUpdate
from gpuid_operator.plan.diff import HistoryWriter
from gpuid_operator.plan.duplicates import Duplicate, unique
from gpuid_operator.plan.expectation import Hardware, as_expected, expectation_entries
from gpuid_operator.plan.identity import Key
from gpuid_operator.plan.outbox import SinkFilter
from gpuid_operator.plan.quarantine import QuarantineIndex
from gpuid_operator.plan.quarantine_marks import mark
from gpuid_operator.plan.resource_slices import (
    FromSlices,
    PublishedGPUs,
    from_slices,
    with_difference,
)


@dataclass(frozen=True, slots=True)
class StatusContext:
    """What the status of a node depends on: its policy merged with the spec of the inventory."""

    policy: str = ""
    """Name of the effective policy, empty for the built-in policy."""
    generation: int = 0
    """`metadata.generation` of the inventory."""
    sink_filters: tuple[SinkFilter, ...] = ()
    sighting_interval: timedelta = timedelta(hours=24)
    suspended: bool = False
    checks: frozenset[str] | None = None
    """Names of the checks whose results the status keeps; None keeps all."""
    quarantines: QuarantineIndex | None = None
    """All quarantines; None while they are not known."""
    quarantine_time: datetime | None = None
    """The time by which quarantines end; None for that of the change."""
    expect: Expectation | None = None
    """What the policy expects of the node."""
    duplicates: tuple[Duplicate, ...] | None = ()
    """The GPUs that other present inventories list, too; None where they are not known yet."""
    published: PublishedGPUs | None = None
    """What the ResourceSlices of the node say; None while that is not known."""


@dataclass(frozen=True, slots=True)
class PendingRemovals:
    """GPUs that a successful read did not list and whose removal awaits a second read."""

    keys: frozenset[Key]
    since: datetime


@dataclass(frozen=True, slots=True)
class StatusChange:
    """The next status and the entries that it adds to the history."""

    status: InventoryStatus
    entries: tuple[HistoryEntry, ...] = ()
    pending_removals: PendingRemovals | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Number of undelivered entries that were dropped, by name of the sink."""


def writer_of(previous: InventoryStatus, now: datetime) -> HistoryWriter:
    """A writer for entries that do not come from a read: machine, source and driver as last
    read."""
    read = previous.gpus is not None
    source = previous.source if read else None
    return HistoryWriter(
        sequence=previous.sequence,
        now=now,
        machine=previous.node.machine if previous.node else None,
        source=f"{source.namespace}/{source.pod}" if source else None,
        driver=previous.driver_version if read else None,
    )


def build_change(
    previous: InventoryStatus,
    facts: dict[str, Any],
    entries: Sequence[HistoryEntry],
    *,
    writer: HistoryWriter,
    context: StatusContext,
    updates: dict[ConditionType, ConditionUpdate | None],
) -> StatusChange:
    """Build the next status from facts and entries: mark the GPUs in quarantine, bound the history,
    advance the cursors, set the conditions."""
    sinks = facts.get("sinks", previous.sinks)
    present = facts.get("state", previous.state) is not InventoryState.DEPARTED
    marks = mark(
        previous,
        facts.get("gpus", previous.gpus),
        present=present,
        index=context.quarantines,
        at=context.quarantine_time or writer.now,
        writer=writer,
    )
    slices_before = FromSlices.of(previous)
    slices_now = from_slices(
        context.published,
        None if marks.gpus is None else [gpu.uuid for gpu in marks.gpus if gpu.uuid],
        departed=not present,
        before=slices_before,
    )
    expected_before = conditions.shown(previous.conditions, ConditionType.AS_EXPECTED)
    expected_now = as_expected(
        context.expect,
        Hardware.of(marks.gpus, facts.get("driver_version", previous.driver_version)),
        departed=not present,
        before=expected_before,
    )
    entries = [
        *entries,
        *marks.entries,
        *expectation_entries(writer, before=expected_before, now=expected_now),
    ]
    log = [*(previous.history or ()), *entries]
    settled = outbox.settle(sinks, log, sink_filters=context.sink_filters, sequence=writer.sequence)
    cursors = [sink.delivered_sequence for sink in settled]
    waiting = outbox.undelivered(log, context.sink_filters, cursors)
    kept = history.bounded(
        log,
        gpus=marks.gpus or (),
        present=present,
        waiting=waiting,
        writer=writer,
    )
    dropped: dict[str, int] = {}
    if kept and kept[-1].sequence > (log[-1].sequence if log else 0):
        entries.append(kept[-1])
        left = {entry.sequence for entry in kept}
        gone = [
            entry
            for entry in log
            if entry.sequence not in left and entry.type is not HistoryType.DROPPED
        ]
        for sink_filter, after in zip(context.sink_filters, cursors, strict=True):
            if missed := len(outbox.pending(gone, sink_filter, after=after)):
                dropped[sink_filter.name] = missed
        settled = outbox.settle(
            settled, kept, sink_filters=context.sink_filters, sequence=writer.sequence
        )
    checks = facts.get("checks", previous.checks)
    if checks and context.checks is not None:
        checks = [check for check in checks if check.name in context.checks]
    changes = [entry.time for entry in entries if entry.type is not HistoryType.SIGHTED]
    now = writer.now
    if marks.condition is not None:
        updates = updates | {ConditionType.QUARANTINED: marks.condition}
    updates = _with_difference(previous, updates, slices_now.difference)
    if present and marks.gpus is None and (slices_before.is_source or slices_now.is_source):
        facts = facts | slices_now.facts()
    update = facts | {
        "gpus": marks.gpus,
        "observed_generation": context.generation,
        "policy": context.policy,
        "sequence": writer.sequence,
        "history": kept,
        "sinks": settled,
        "checks": checks or None,
        "conditions": conditions.updated(
            previous.conditions,
            updates
            | {
                ConditionType.DELIVERED: conditions.delivered(settled, kept),
                ConditionType.CHECKS_PASSED: conditions.checks_passed(checks),
                ConditionType.AS_EXPECTED: expected_now,
                ConditionType.UNIQUE: unique(
                    context.duplicates,
                    departed=not present,
                    before=conditions.shown(previous.conditions, ConditionType.UNIQUE),
                ),
            },
            now=now,
            generation=context.generation,
        ),
    }
    if changes:
        update["last_change_time"] = changes[-1]
    return StatusChange(previous.model_copy(update=update), tuple(entries), dropped=dropped)


def _with_difference(
    previous: InventoryStatus,
    updates: dict[ConditionType, ConditionUpdate | None],
    difference: str,
) -> dict[ConditionType, ConditionUpdate | None]:
    """The updates, so that the message of Ready names this difference and no other."""
    shown = conditions.shown(previous.conditions, ConditionType.READY)
    ready = updates.get(ConditionType.READY) or shown
    if ready is None:
        return updates
    ready = replace(ready, message=with_difference(ready.message, difference))
    if ready == shown and ConditionType.READY not in updates:
        return updates
    return updates | {ConditionType.READY: ready}
