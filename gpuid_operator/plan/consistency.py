"""What the other decisions rely on in a status, restored where somebody edited it by hand.

field                    | made so
-------------------------|------------------------------------------------------------
history                  | in the order of sequence, each once, none above MAX_NUMBER
sequence                 | at least that of the newest entry, and at most MAX_NUMBER
sinks.deliveredSequence  | from 0 to `sequence`: later entries would never be delivered
checks.transitions       | from 0 to MAX_NUMBER
checks.recorded          | at most `transitions`: later ones would never be recorded
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from gpuid_operator.api.inventory import CheckStatus, HistoryEntry, InventoryStatus, SinkStatus

MAX_NUMBER: Final = 2**53
"""Counters of the operator never get there. The API server stores numbers up to 2**63 - 1, to which
nothing could be added."""


def consistent(status: InventoryStatus) -> InventoryStatus:
    """The status as the table above says; the same object if it is so already."""
    history = _history(status.history or ())
    newest = history[-1].sequence if history else 0
    sequence = max(status.sequence, newest) if status.sequence <= MAX_NUMBER else newest
    restored: dict[str, Any] = {
        "history": history or None,
        "sequence": sequence,
        "sinks": [_sink(sink, sequence) for sink in status.sinks or ()] or None,
        "checks": [_check(check) for check in status.checks or ()] or None,
    }
    known = {name: getattr(status, name) or None for name in restored} | {
        "sequence": status.sequence
    }
    return status if restored == known else status.model_copy(update=restored)


def _history(history: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    if all(one.sequence < other.sequence for one, other in pairwise(history)) and (
        not history or history[-1].sequence <= MAX_NUMBER
    ):
        return list(history)
    entries = {entry.sequence: entry for entry in history if entry.sequence <= MAX_NUMBER}
    return [entries[sequence] for sequence in sorted(entries)]


def _sink(sink: SinkStatus, sequence: int) -> SinkStatus:
    delivered = min(max(sink.delivered_sequence, 0), sequence)
    if delivered == sink.delivered_sequence:
        return sink
    return sink.model_copy(update={"delivered_sequence": delivered})


def _check(check: CheckStatus) -> CheckStatus:
    transitions = check.transitions
    if transitions is not None and not 0 <= transitions <= MAX_NUMBER:
        transitions = 0
    recorded = check.recorded
    if recorded is not None and not 0 <= recorded <= (transitions or 0):
        recorded = transitions or 0
    if (transitions, recorded) == (check.transitions, check.recorded):
        return check
    return check.model_copy(update={"transitions": transitions, "recorded": recorded})
