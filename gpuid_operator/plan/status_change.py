"""What every change of a status has in common: the terms in force, and what follows from facts and
entries: the history within its bounds, the cursors of the sinks, the conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from gpuid_operator.api.inventory import (
    ConditionType,
    HistoryEntry,
    HistoryType,
    InventoryState,
    InventoryStatus,
)
from gpuid_operator.plan import conditions, history, outbox
from gpuid_operator.plan.conditions import ConditionUpdate
from gpuid_operator.plan.diff import HistoryWriter
from gpuid_operator.plan.identity import Key
from gpuid_operator.plan.outbox import SinkFilter


@dataclass(frozen=True, slots=True)
class StatusContext:
    """What is in force for a node: the ruling policy and the inventory's own spec, as one."""

    policy: str = ""
    """Name of the ruling policy, empty for the built-in one."""
    generation: int = 0
    """Generation of the inventory's spec."""
    sink_filters: tuple[SinkFilter, ...] = ()
    sighting_interval: timedelta = timedelta(hours=24)
    suspended: bool = False
    checks: frozenset[str] | None = None
    """Names of the checks whose results are kept; None keeps all."""


@dataclass(frozen=True, slots=True)
class PendingRemovals:
    """GPUs that a good read did not have and whose removal waits for a second one."""

    keys: frozenset[Key]
    since: datetime


@dataclass(frozen=True, slots=True)
class StatusChange:
    """The next status, and what it adds to the history."""

    status: InventoryStatus
    entries: tuple[HistoryEntry, ...] = ()
    pending_removals: PendingRemovals | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    """How many entries gave way before a sink had them, by its name."""


def writer_of(previous: InventoryStatus, now: datetime) -> HistoryWriter:
    """A scribe for entries that no read gave: what they tell is as last known."""
    source = previous.source
    return HistoryWriter(
        sequence=previous.sequence,
        now=now,
        machine=previous.node.machine if previous.node else None,
        source=f"{source.namespace}/{source.pod}" if source else None,
        driver=previous.driver_version,
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
    """Bring everything together that follows from facts and entries: the history within its
    bounds, the cursors, the conditions."""
    sinks = facts.get("sinks", previous.sinks)
    entries = list(entries)
    log = [*(previous.history or ()), *entries]
    state = facts.get("state", previous.state)
    settled = outbox.settle(sinks, log, sink_filters=context.sink_filters, sequence=writer.sequence)
    cursors = [sink.delivered_sequence for sink in settled]
    waiting = outbox.undelivered(log, context.sink_filters, cursors)
    kept = history.bounded(
        log,
        gpus=facts.get("gpus", previous.gpus) or (),
        present=state is not InventoryState.DEPARTED,
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
    update = facts | {
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
            },
            now=now,
            generation=context.generation,
        ),
    }
    if changes:
        update["last_change_time"] = changes[-1]
    return StatusChange(previous.model_copy(update=update), tuple(entries), dropped=dropped)
