"""The next status of a node's inventory: pure functions from what was known and what was seen.

Each takes the previous status and returns the next one whole, with the entries that it adds to the
history, so that facts and their history are committed in one write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from gpuid_operator.api.inventory import (
    GPU,
    CheckStatus,
    ConditionStatus,
    ConditionType,
    HistoryEntry,
    HistoryType,
    InventoryState,
    InventoryStatus,
    NodeInfo,
    Source,
)
from gpuid_operator.api.meta import MAX_GPUS
from gpuid_operator.api.values import whole_seconds
from gpuid_operator.plan import conditions, history, outbox
from gpuid_operator.plan.conditions import Verdict
from gpuid_operator.plan.diff import (
    Scribe,
    gpu_entries,
    machine_change,
    rebooted,
    removed,
    shorten,
    sighting,
)
from gpuid_operator.plan.failure import FailureReason
from gpuid_operator.plan.identity import Match, key, match
from gpuid_operator.plan.outbox import Outlet
from gpuid_operator.plan.outcome import Outcome, Suspects, Terms, commit, scribe_of
from gpuid_operator.plan.smi import Reading

CONFIRMATION: Final = timedelta(seconds=10)
"""A GPU that a good read does not have is removed when a second one agrees, this much later."""

MAX_PRODUCT: Final = 512
MAX_REQUEST: Final = 1024

_SUSPENDED: Final = "Suspended"
_READS_SUSPENDED: Final = "reads are suspended"


def request_token(annotation: str) -> str:
    """The token of `requestedAt` as `lastHandledRequest` holds it: compare it in this form."""
    return shorten(annotation, MAX_REQUEST)


def after_read(
    previous: InventoryStatus,
    reading: Reading,
    *,
    source: Source,
    node: NodeInfo,
    now: datetime,
    terms: Terms,
    request: str | None = None,
    suspects: Suspects | None = None,
) -> Outcome:
    """The status after a good read.

    `request` is the token whose read this was. While a GPU's absence waits for a second read, it
    stays as last known, and `source` and `lastReadTime` do not advance.
    """
    first = previous.gpus is None
    returned = previous.state is InventoryState.DEPARTED
    # Of a node that returns nothing is taken for granted: its GPUs left with it.
    before: Sequence[GPU] = () if returned else previous.gpus or ()
    found = match(before, reading.gpus)
    absent, doubted = _sort_missing(
        found,
        certain=rebooted(previous.node, node),
        reading=reading,
        suspects=suspects,
        now=now,
    )
    gpus = sorted(
        (*(gpu for _, gpu in found.kept), *found.added, *doubted),
        key=lambda gpu: (gpu.pci_address is None, gpu.pci_address or "", gpu.uuid or ""),
    )
    scribe = Scribe(
        sequence=previous.sequence,
        now=now,
        machine=node.machine,
        source=f"{source.namespace}/{source.pod}",
        driver=reading.driver_version,
    )
    driver = (previous.driver_version, reading.driver_version)
    driver_changed = driver[0] != driver[1] and not first
    entries = []
    if returned:
        entries.append(_returned(scribe, previous, node))
    elif moved := machine_change(previous.node, node):
        entries.append(
            scribe.entry(
                HistoryType.MACHINE_CHANGED,
                from_=moved[0],
                to=moved[1],
                message=f"the node name now stands for {moved[1]}, before for {moved[0]}",
            )
        )
    if driver_changed and not returned and None not in driver:
        entries.append(scribe.entry(HistoryType.DRIVER_CHANGED, from_=driver[0], to=driver[1]))
    certain = Match(kept=found.kept, added=found.added, missing=tuple(absent))
    entries.extend(
        gpu_entries(
            scribe,
            found=certain,
            driver_changed=driver_changed,
            left=previous.node.machine if previous.node else None,
        )
    )
    new_container = not doubted and (
        previous.source is None or previous.source.container_id != source.container_id
    )
    seen = [gpu for gpu in gpus if gpu not in doubted] if doubted else gpus
    if seen and (
        new_container
        or any(entry.type in history.IDENTITY for entry in entries)
        or _sighting_due(previous, terms.sighting_interval, now)
    ):
        entries.append(sighting(scribe, seen))
    facts: dict[str, Any] = {
        "state": InventoryState.PRESENT,
        "node": node,
        "driver_version": reading.driver_version,
        "cuda_version": reading.cuda_version,
        "gpus": gpus,
        **summary(gpus),
    }
    if not doubted:
        facts |= {"source": source, "last_read_time": whole_seconds(now)}
    if request is not None:
        facts["last_handled_request"] = request_token(request)
    outcome = commit(
        previous,
        facts,
        entries,
        scribe=scribe,
        terms=terms,
        verdicts={
            ConditionType.READY: _ready(terms),
            ConditionType.HEALTHY: conditions.healthy(gpus),
        },
    )
    if not doubted:
        return outcome
    keys = frozenset(map(key, doubted))
    since = suspects.since if suspects and keys <= suspects.keys else now
    return Outcome(outcome.status, outcome.entries, Suspects(keys, since), outcome.dropped)


def _sort_missing(
    found: Match,
    *,
    certain: bool,
    reading: Reading,
    suspects: Suspects | None,
    now: datetime,
) -> tuple[list[GPU], list[GPU]]:
    """Those of the missing GPUs that are gone, and those of which a second read has to tell.

    another machine, Node or boot         | gone
    another GPU at its PCI address        | gone
    missing in a read 10 s ago, too       | gone
    no place among the most GPUs of a node| gone
    otherwise                             | in doubt
    """
    occupied = {gpu.pci_address for gpu in reading.gpus if gpu.pci_address}
    room = MAX_GPUS - len(reading.gpus)
    confirmed = suspects.keys if suspects and now - suspects.since >= CONFIRMATION else frozenset()
    absent: list[GPU] = []
    doubted: list[GPU] = []
    for gpu in found.missing:
        gone = (
            certain or gpu.pci_address in occupied or key(gpu) in confirmed or len(doubted) >= room
        )
        (absent if gone else doubted).append(gpu)
    return absent, doubted


def _returned(scribe: Scribe, previous: InventoryStatus, node: NodeInfo) -> HistoryEntry:
    machine = previous.node.machine if previous.node else None
    changed = machine not in (None, node.machine)
    return scribe.entry(
        HistoryType.NODE_RETURNED,
        from_=machine if changed else None,
        to=node.machine if changed else None,
    )


def _sighting_due(previous: InventoryStatus, interval: timedelta, now: datetime) -> bool:
    last = next(
        (e.time for e in reversed(previous.history or ()) if e.type is HistoryType.SIGHTED), None
    )
    return last is None or (interval > timedelta(0) and now - last >= interval)


def _ready(terms: Terms) -> Verdict:
    if terms.suspended:
        return Verdict(ConditionStatus.TRUE, _SUSPENDED, _READS_SUSPENDED)
    return Verdict(ConditionStatus.TRUE, "ReadOK", "")


def _suspended(previous: InventoryStatus) -> Verdict:
    """Suspension keeps the status of `Ready`, whatever comes in from reads under way."""
    ready = conditions.find(previous.conditions, ConditionType.READY)
    status = ready.status if ready else ConditionStatus.UNKNOWN
    return Verdict(status, _SUSPENDED, _READS_SUSPENDED)


def summary(gpus: Sequence[GPU]) -> dict[str, Any]:
    """The fields of status that sum up its GPUs."""
    return {
        "gpu_count": len(gpus),
        "product": shorten(", ".join(_unique(gpu.product for gpu in gpus)), MAX_PRODUCT) or None,
        "serials": _unique(gpu.serial for gpu in gpus) or None,
        "chassis": _unique(gpu.chassis_serial for gpu in gpus) or None,
    }


def _unique(values: Iterable[str | None]) -> list[str]:
    return sorted({value for value in values if value})


def after_failure(
    previous: InventoryStatus,
    *,
    reason: FailureReason,
    message: str,
    node: NodeInfo | None,
    now: datetime,
    terms: Terms,
    request: str | None = None,
) -> Outcome:
    """The status after a read that failed, or that had no pod to read from: the last good facts,
    and `Ready=False`."""
    facts: dict[str, Any] = {}
    if previous.state is None:
        facts["state"] = InventoryState.PRESENT
    if previous.node is None and node is not None:
        # Known facts of the node move with good reads only: by them a read tells that the machine
        # behind the name is another one.
        facts["node"] = node
    if request is not None:
        facts["last_handled_request"] = request_token(request)
    verdicts: dict[ConditionType, Verdict | None] = {
        ConditionType.READY: _suspended(previous)
        if terms.suspended
        else Verdict(ConditionStatus.FALSE, reason.value, message)
    }
    if previous.gpus is None:
        verdicts[ConditionType.HEALTHY] = conditions.healthy(None)
    return commit(
        previous, facts, [], scribe=scribe_of(previous, now), terms=terms, verdicts=verdicts
    )


def after_departure(previous: InventoryStatus, *, now: datetime, terms: Terms) -> Outcome:
    """The status once node and pod are gone; `gpus` stay as last known."""
    if previous.state is InventoryState.DEPARTED:
        return Outcome(previous)
    scribe = scribe_of(previous, now)
    entries = [removed(scribe, gpu, machine=scribe.machine) for gpu in previous.gpus or ()]
    entries.append(scribe.entry(HistoryType.NODE_DEPARTED))
    gone = "the node is gone; its GPUs are listed as last known"
    return commit(
        previous,
        {"state": InventoryState.DEPARTED},
        entries,
        scribe=scribe,
        terms=terms,
        verdicts={
            ConditionType.READY: Verdict(
                ConditionStatus.FALSE, FailureReason.NODE_NOT_FOUND.value, gone
            ),
            ConditionType.HEALTHY: Verdict(ConditionStatus.UNKNOWN, "NodeDeparted", gone),
        },
    )


def reconsidered(previous: InventoryStatus, *, now: datetime, terms: Terms) -> Outcome:
    """The status under the terms in force now, without a read: policy, sinks, suspension."""
    verdicts: dict[ConditionType, Verdict | None] = {}
    ready = conditions.find(previous.conditions, ConditionType.READY)
    if previous.state is InventoryState.DEPARTED:
        pass  # There is nothing to read, suspended or not.
    elif terms.suspended:
        verdicts[ConditionType.READY] = _suspended(previous)
    elif ready is not None and ready.reason == _SUSPENDED:
        # The reason of a failure comes back with the next read, which is due now.
        verdicts[ConditionType.READY] = (
            _ready(terms)
            if ready.status is ConditionStatus.TRUE
            else Verdict(
                ready.status, "Resumed", "was not ready when it was suspended; a read is due"
            )
        )
    return commit(previous, {}, [], scribe=scribe_of(previous, now), terms=terms, verdicts=verdicts)


def acknowledged(
    previous: InventoryStatus, outlet: Outlet, *, upto: int, now: datetime, terms: Terms
) -> Outcome:
    """The status once a sink has taken every entry up to `upto`."""
    settled = outbox.settle(
        previous.sinks, previous.history or (), outlets=terms.outlets, sequence=previous.sequence
    )
    sinks = outbox.acknowledged(
        settled,
        name=outlet.name,
        type_=outlet.type,
        upto=min(upto, previous.sequence),
        now=now,
    )
    return commit(
        previous, {"sinks": sinks}, [], scribe=scribe_of(previous, now), terms=terms, verdicts={}
    )


def delivery_failed(
    previous: InventoryStatus, outlet: Outlet, *, error: str, now: datetime, terms: Terms
) -> Outcome:
    """The status after a sink did not take what is pending."""
    settled = outbox.settle(
        previous.sinks, previous.history or (), outlets=terms.outlets, sequence=previous.sequence
    )
    sinks = outbox.failing(settled, name=outlet.name, type_=outlet.type, error=error, now=now)
    return commit(
        previous, {"sinks": sinks}, [], scribe=scribe_of(previous, now), terms=terms, verdicts={}
    )


def with_checks(
    previous: InventoryStatus,
    checks: Sequence[CheckStatus],
    entries: Sequence[HistoryEntry],
    *,
    scribe: Scribe,
    terms: Terms,
) -> Outcome:
    """The status with new results of checks and the entries that they gave."""
    return commit(
        previous, {"checks": list(checks)}, entries, scribe=scribe, terms=terms, verdicts={}
    )
