"""The status as the outbox: what each sink still has to get, and how far its cursor stands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gpuid_operator.api.inventory import HistoryEntry, HistoryType, InventoryStatus, SinkStatus
from gpuid_operator.plan import delivery, outbox, status
from gpuid_operator.plan.outbox import SinkFilter
from gpuid_operator.plan.status_change import StatusContext

NOW = datetime(2026, 6, 7, 10, 30, 45, 999, tzinfo=UTC)
SECOND = NOW.replace(microsecond=0)
CHANGES = SinkFilter("cmdb", "http", sightings=False)
SIGHTINGS = SinkFilter("logs", "stdout", sightings=True)
ADDED, SIGHTED = HistoryType.GPU_ADDED, HistoryType.SIGHTED


def history(*types: HistoryType) -> list[HistoryEntry]:
    return [HistoryEntry(sequence=n, time=NOW, type=kind) for n, kind in enumerate(types, 1)]


def settled(*types: HistoryType, sink_filters: tuple[SinkFilter, ...]) -> InventoryStatus:
    """A status with this history, as it is once these sinks are in force."""
    previous = InventoryStatus(sequence=len(types), history=history(*types))
    return status.reconsidered(
        previous, now=NOW, context=StatusContext(sink_filters=sink_filters)
    ).status


def sink(state: InventoryStatus, sink_filter: SinkFilter) -> SinkStatus:
    return next(
        s for s in state.sinks or () if (s.name, s.type) == (sink_filter.name, sink_filter.type)
    )


@pytest.mark.parametrize("kind", HistoryType)
def test_a_sink_takes_either_sightings_or_all_else(kind: HistoryType) -> None:
    (entry,) = history(kind)
    assert SIGHTINGS.takes(entry) is (kind is SIGHTED)
    assert CHANGES.takes(entry) is (kind is not SIGHTED)


def test_a_new_sink_starts_before_what_the_history_holds() -> None:
    state = settled(ADDED, SIGHTED, ADDED, sink_filters=(CHANGES, SIGHTINGS))
    assert (sink(state, CHANGES).delivered_sequence, sink(state, CHANGES).pending) == (0, 2)
    assert (sink(state, SIGHTINGS).delivered_sequence, sink(state, SIGHTINGS).pending) == (1, 1)
    assert [e.sequence for e in outbox.pending(state.history or (), CHANGES, after=0)] == [1, 3]
    assert outbox.cursor(state, SIGHTINGS) == 1
    assert outbox.cursor(state, SinkFilter("other", "http", sightings=False)) == 0


def test_entries_that_give_no_record_are_passed_over_at_once() -> None:
    state = settled(SIGHTED, SIGHTED, sink_filters=(CHANGES,))
    assert sink(state, CHANGES).delivered_sequence == 2
    assert sink(state, CHANGES).pending == 0


def test_but_not_while_something_earlier_is_pending() -> None:
    state = settled(ADDED, SIGHTED, SIGHTED, sink_filters=(CHANGES,))
    assert sink(state, CHANGES).delivered_sequence == 0


def test_an_acknowledgement_moves_the_cursor_over_what_follows_without_a_record() -> None:
    state = settled(ADDED, SIGHTED, ADDED, SIGHTED, sink_filters=(CHANGES,))
    context = StatusContext(sink_filters=(CHANGES,))
    state = delivery.after_delivery(state, CHANGES, up_to=1, now=NOW, context=context).status
    assert (sink(state, CHANGES).delivered_sequence, sink(state, CHANGES).pending) == (2, 1)
    state = delivery.after_delivery(state, CHANGES, up_to=3, now=NOW, context=context).status
    assert (sink(state, CHANGES).delivered_sequence, sink(state, CHANGES).pending) == (4, 0)
    assert sink(state, CHANGES).last_delivery_time == SECOND


def test_a_cursor_never_goes_back_nor_beyond_what_there_is() -> None:
    context = StatusContext(sink_filters=(CHANGES,))
    state = settled(ADDED, ADDED, sink_filters=(CHANGES,))
    state = delivery.after_delivery(state, CHANGES, up_to=2, now=NOW, context=context).status
    state = delivery.after_delivery(state, CHANGES, up_to=1, now=NOW, context=context).status
    assert sink(state, CHANGES).delivered_sequence == 2
    # As from a delivery that began before the object was recreated.
    state = delivery.after_delivery(state, CHANGES, up_to=400, now=NOW, context=context).status
    assert sink(state, CHANGES).delivered_sequence == 2


def test_no_sink_waits_for_another() -> None:
    context = StatusContext(sink_filters=(CHANGES, SIGHTINGS))
    state = settled(ADDED, SIGHTED, sink_filters=context.sink_filters)
    state = delivery.after_delivery(state, SIGHTINGS, up_to=2, now=NOW, context=context).status
    assert sink(state, CHANGES).pending == 1
    assert sink(state, SIGHTINGS).pending == 0
    assert sink(state, CHANGES).last_delivery_time is None


def test_a_removed_sink_leaves_nothing() -> None:
    state = settled(ADDED, sink_filters=(CHANGES, SIGHTINGS))
    state = status.reconsidered(
        state, now=NOW, context=StatusContext(sink_filters=(SIGHTINGS,))
    ).status
    assert [item.name for item in state.sinks or ()] == ["logs"]
    late = delivery.after_delivery(
        state, CHANGES, up_to=1, now=NOW, context=StatusContext(sink_filters=(SIGHTINGS,))
    ).status
    assert late == state


def test_under_another_type_it_is_another_sink() -> None:
    context = StatusContext(sink_filters=(CHANGES,))
    state = settled(ADDED, sink_filters=(CHANGES,))
    state = delivery.after_delivery(state, CHANGES, up_to=1, now=NOW, context=context).status
    other = SinkFilter("cmdb", "postgres", sightings=False)
    state = status.reconsidered(state, now=NOW, context=StatusContext(sink_filters=(other,))).status
    assert state.sinks is not None
    (item,) = state.sinks
    assert (item.type, item.delivered_sequence, item.pending) == ("postgres", 0, 1)


def test_what_is_undelivered_is_what_any_sink_lacks() -> None:
    log = history(ADDED, SIGHTED, ADDED, SIGHTED)
    assert outbox.undelivered(log, (CHANGES, SIGHTINGS), (1, 4)) == {3}
    assert outbox.undelivered(log, (CHANGES, SIGHTINGS), (0, 0)) == {1, 2, 3, 4}
    assert outbox.undelivered(log, (), ()) == set()


class TestFailure:
    context = StatusContext(sink_filters=(CHANGES, SIGHTINGS))

    def fail(self, state: InventoryStatus, error: str, *, after: int = 0) -> InventoryStatus:
        now = NOW + timedelta(minutes=after)
        return delivery.after_delivery_failure(
            state, CHANGES, error=error, now=now, context=self.context
        ).status

    def test_says_what_and_since_when(self) -> None:
        state = self.fail(
            settled(ADDED, sink_filters=self.context.sink_filters), "Unavailable: no route"
        )
        state = self.fail(state, "Unavailable: timed out", after=5)
        assert sink(state, CHANGES).last_error == "Unavailable: timed out"
        assert sink(state, CHANGES).since == SECOND
        assert sink(state, SIGHTINGS).last_error is None

    def test_the_same_again_changes_nothing(self) -> None:
        state = self.fail(
            settled(ADDED, sink_filters=self.context.sink_filters), "Unavailable: no route"
        )
        assert self.fail(state, "Unavailable: no route", after=5) == state

    def test_with_nothing_to_deliver_is_none(self) -> None:
        state = settled(SIGHTED, sink_filters=self.context.sink_filters)
        assert self.fail(state, "Unavailable: no route") == state

    def test_a_delivery_ends_it(self) -> None:
        state = self.fail(
            settled(ADDED, ADDED, sink_filters=self.context.sink_filters), "Refused: 401"
        )
        state = delivery.after_delivery(
            state, CHANGES, up_to=1, now=NOW, context=self.context
        ).status
        assert (sink(state, CHANGES).last_error, sink(state, CHANGES).since) == (None, None)

    def test_a_long_error_is_cut_by_what_it_takes_when_stored(self) -> None:
        state = self.fail(settled(ADDED, sink_filters=self.context.sink_filters), "<html>" * 200)
        error = sink(state, CHANGES).last_error or ""
        assert error.endswith("…")
        assert len(error.replace("<", "\\u003c").replace(">", "\\u003e").encode()) <= 512
