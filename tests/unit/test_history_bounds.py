"""The bounds of a history: what it keeps, what `Dropped` replaces, and how an overflow ends."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from gpuid_operator.api.inventory import (
    GPU,
    ConditionStatus,
    ConditionType,
    HistoryEntry,
    HistoryType,
    InventoryStatus,
)
from gpuid_operator.api.meta import MAX_FROM_TO, MAX_HISTORY, MAX_MESSAGE
from gpuid_operator.plan import history, outbox, status
from gpuid_operator.plan.conditions import find
from gpuid_operator.plan.diff import HistoryWriter
from gpuid_operator.plan.history import MAX_HISTORY_BYTES, bounded
from gpuid_operator.plan.identity import key
from gpuid_operator.plan.outbox import SinkFilter
from gpuid_operator.plan.status_change import StatusContext
from tests.support.node_model import START, NodeModel, card, replay

NOW = datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)
GPU_1 = card(1, address="00000000:01:00.0")
ADDED, REMOVED = HistoryType.GPU_ADDED, HistoryType.GPU_REMOVED
HEALTH, SIGHTED, DROPPED = (
    HistoryType.HEALTH_CHANGED,
    HistoryType.SIGHTED,
    HistoryType.DROPPED,
)


def entries(*types: HistoryType, gpu: GPU | None = None, after: int = 0) -> list[HistoryEntry]:
    writer = HistoryWriter(sequence=after, now=NOW)
    return [writer.entry(kind, gpu) for kind in types]


def bound(
    log: Sequence[HistoryEntry],
    *,
    gpus: Sequence[GPU] = (),
    present: bool = True,
    waiting: set[int] | None = None,
) -> list[HistoryEntry]:
    return bounded(
        log,
        gpus=gpus,
        present=present,
        waiting=waiting or set(),
        writer=HistoryWriter(sequence=log[-1].sequence, now=NOW),
    )


def numbers(log: Sequence[HistoryEntry]) -> set[int]:
    return {entry.sequence for entry in log}


def everything(log: Sequence[HistoryEntry]) -> set[int]:
    return numbers(log)


def counted(entry: HistoryEntry) -> dict[str, int]:
    pairs = [item.split("=") for item in (entry.to or "").split()]
    return {name: int(count) for name, count in pairs}


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        (HistoryType.GPU_MOVED, 50),
        (HistoryType.GPU_CHANGED, 50),
        (HistoryType.MACHINE_CHANGED, 50),
        (HistoryType.NODE_RETURNED, 50),
        (HistoryType.NODE_DEPARTED, 50),
        (HEALTH, 20),
        (HistoryType.GPU_LOST, 20),
        (HistoryType.GPU_RECOVERED, 20),
        (HistoryType.DRIVER_CHANGED, 20),
        (HistoryType.CHECK_FAILED, 20),
        (HistoryType.CHECK_PASSED, 20),
        (SIGHTED, 5),
    ],
)
def test_the_newest_of_each_class_stay(kind: HistoryType, kept: int) -> None:
    log = entries(*[kind] * 70)
    assert bound(log) == log[-kept:]


def test_health_driver_and_checks_share_one_allowance() -> None:
    log = entries(*[HEALTH, HistoryType.DRIVER_CHANGED, HistoryType.CHECK_FAILED] * 20)
    assert bound(log) == log[-20:]


def test_the_newest_arrival_of_each_present_gpu_stays_for_new_sinks() -> None:
    other = card(4, address="00000000:02:00.0")
    log = entries(ADDED, REMOVED, ADDED, gpu=GPU_1)
    log += entries(ADDED, gpu=other, after=3)
    log += entries(*[HistoryType.GPU_MOVED] * 60, gpu=GPU_1, after=4)
    assert numbers(bound(log, gpus=[GPU_1, other])) >= {3, 4}
    assert 1 not in numbers(bound(log, gpus=[GPU_1, other]))
    # The history keeps the removal as the newest of a GPU that left once.
    assert 2 in numbers(bound(log, gpus=[GPU_1, other]))


def test_the_newest_removal_of_each_of_the_last_fifty_uuids_stays() -> None:
    writer = HistoryWriter(sequence=0, now=NOW)
    cards = [card(number, address="00000000:01:00.0") for number in range(60)]
    log = [writer.entry(REMOVED, gpu) for gpu in cards]
    log += [writer.entry(REMOVED, cards[59])]
    log += [writer.entry(HistoryType.GPU_MOVED, GPU_1) for _ in range(60)]
    removals = [entry for entry in bound(log) if entry.type is REMOVED]
    assert [entry.uuid for entry in removals] == [gpu.uuid for gpu in cards[10:]]
    assert removals[-1].sequence == 61


def test_what_a_sink_has_not_had_stays() -> None:
    log = entries(*[HEALTH] * 300)
    assert bound(log, waiting=everything(log)) == log


def test_of_a_departed_node_identity_and_what_is_undelivered_stay() -> None:
    log = entries(ADDED, HEALTH, SIGHTED, HEALTH, SIGHTED, REMOVED, gpu=GPU_1)
    assert numbers(bound(log, present=False, waiting={4, 5})) == {1, 4, 5, 6}


def test_overflow_takes_the_oldest_undelivered_and_counts_them() -> None:
    log = entries(ADDED, gpu=GPU_1) + entries(*[HEALTH] * 600, gpu=GPU_1, after=1)
    kept = bound(log, gpus=[GPU_1], waiting=everything(log))
    assert len(kept) == MAX_HISTORY
    assert kept[0] == log[0], "the newest GPUAdded of a present GPU never gives way"
    assert kept[1:-1] == log[-498:]
    assert kept[-1].sequence == 602
    assert kept[-1].type is DROPPED
    assert kept[-1].from_ == "2-103"
    assert counted(kept[-1]) == {"HealthChanged": 102}
    assert "102 entries" in (kept[-1].message or "")


def test_just_enough_is_no_overflow() -> None:
    log = entries(*[HEALTH] * MAX_HISTORY)
    assert bound(log, waiting=everything(log)) == log


def test_a_further_drop_replaces_the_first_and_counts_it_in() -> None:
    log = entries(*[HEALTH] * 501)
    first = bound(log, waiting=everything(log))
    assert counted(first[-1]) == {"HealthChanged": 2}
    log = first + entries(*[HistoryType.CHECK_FAILED] * 3, after=first[-1].sequence)
    second = bound(log, waiting=everything(log))
    assert [entry.type for entry in second].count(DROPPED) == 1
    assert second[-1].sequence == log[-1].sequence + 1
    assert second[-1].from_ == "1-5"
    assert counted(second[-1]) == {"HealthChanged": 5}
    assert len(second) == MAX_HISTORY


def test_a_drop_after_every_sink_had_the_last_one_starts_a_new_count() -> None:
    log = entries(*[HEALTH] * 501)
    first = bound(log, waiting=everything(log))
    log = first[-1:] + entries(*[HEALTH] * 501, after=first[-1].sequence)
    second = bound(log, waiting=everything(log) - {first[-1].sequence})
    assert [entry.type for entry in second].count(DROPPED) == 1
    assert counted(second[-1]) == {"HealthChanged": 2}
    assert second[-1].from_ == "503-504"


def test_the_counts_of_all_types_survive_any_number_of_drops() -> None:
    """`to` and `message` are short; what they cannot name is counted together, never lost."""
    kinds = [kind for kind in HistoryType if kind is not DROPPED]
    log: list[HistoryEntry] = []
    sequence = total = 0
    for _ in range(40):
        log += entries(*kinds * 40, after=sequence)
        sequence = log[-1].sequence
        before = len([entry for entry in log if entry.type is not DROPPED])
        log = bound(log, waiting=everything(log))
        total += before - len([entry for entry in log if entry.type is not DROPPED])
        sequence = log[-1].sequence
    newest = log[-1]
    assert sum(counted(newest).values()) == total
    assert f"{total} entries" in (newest.message or "")
    assert len(newest.to or "") <= MAX_FROM_TO
    assert len(newest.message or "") <= MAX_MESSAGE


def test_at_most_forty_sightings_wait() -> None:
    log = entries(*[SIGHTED] * 40, HEALTH)
    assert bound(log, waiting=everything(log)) == log
    log = entries(*[SIGHTED] * 45, HEALTH)
    kept = bound(log, waiting=everything(log))
    assert kept[:-1] == log[5:]
    assert counted(kept[-1]) == {"Sighted": 5}
    assert kept[-1].from_ == "1-5"


def test_a_span_covers_sightings_dropped_before_older_entries() -> None:
    log = entries(*[HEALTH] * 20, *[SIGHTED] * 45)
    first = bound(log, waiting=everything(log))
    assert first[-1].from_ == "21-25"
    log = first + entries(*[HEALTH] * 442, after=first[-1].sequence)
    second = bound(log, waiting=everything(log))
    assert second[-1].from_ == "1-25"
    assert counted(second[-1]) == {"Sighted": 5, "HealthChanged": 3}


def test_a_dropped_removal_takes_the_arrival_with_it() -> None:
    """The rest of the history must not show a GPU that is gone as present."""
    log = entries(ADDED, REMOVED, gpu=GPU_1) + entries(*[HEALTH] * 500, gpu=GPU_1, after=2)
    kept = bound(log, waiting=everything(log) - {1})
    assert counted(kept[-1])["GPURemoved"] == 1
    assert replay(kept) == set()


def test_long_entries_give_way_before_the_object_is_too_large() -> None:
    text = "<" * 1000
    writer = HistoryWriter(sequence=0, now=NOW, machine="m" * 512, source="s" * 300)
    gpu = GPU_1.model_copy(update={"product": "\u4e00" * 42})
    log = [
        writer.entry(HEALTH, gpu, from_=text, to=text, message="\u4e00" * 500) for _ in range(490)
    ]
    kept = bound(log, waiting=everything(log))
    size = sum(
        len(
            entry.model_dump_json(by_alias=True, exclude_none=True).replace("<", "\\u003c").encode()
        )
        for entry in kept
    )
    assert MAX_HISTORY_BYTES * 0.98 < size < MAX_HISTORY_BYTES + 1024
    assert kept[-1].type is DROPPED
    assert kept[:-1] == log[-len(kept) + 1 :]
    assert counted(kept[-1]) == {"HealthChanged": 490 - len(kept) + 1}


def test_overflow_is_reached_and_left_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_HISTORY", 120)
    model = NodeModel()
    model.context = StatusContext(
        generation=1, sink_filters=(SinkFilter("cmdb", "http", sightings=False),)
    )
    model.owed = {model.context.sink_filters[0]: set()}
    model.add(0, 0)
    for round_ in range(170):
        model.health(0, round_)
        model.read(0, 0)
        model.now += timedelta(seconds=1)
    delivered = find(model.status.conditions, ConditionType.DELIVERED)
    assert delivered is not None
    assert (delivered.status, delivered.reason) == (ConditionStatus.FALSE, "Overflow")
    assert "HealthChanged=" in delivered.message
    assert len(model.status.history or ()) == 120
    assert model.dropped > 30

    model.deliver_all()
    delivered = find(model.status.conditions, ConditionType.DELIVERED)
    assert delivered is not None
    assert (delivered.status, delivered.reason) == (ConditionStatus.TRUE, "Delivered")
    assert len(model.status.history or ()) < 40
    got = model.got[model.context.sink_filters[0]]
    heard = [model.books[number] for number in got]
    assert sum(entry.type is DROPPED for entry in heard) == 1
    assert model.dropped == sum(counted(heard[-1]).values())
    assert replay(heard) == {key(gpu) for gpu in model.hardware}


def test_an_outcome_says_how_many_gave_way() -> None:
    log = entries(*[HEALTH] * 500)
    sink_filter = SinkFilter("cmdb", "http", sightings=False)
    previous = InventoryStatus(sequence=500, history=log)
    context = StatusContext(sink_filters=(sink_filter,))
    change = status.after_departure(previous, now=START, context=context)
    assert change.dropped == {"cmdb": 2}
    assert [entry.type for entry in change.entries] == [HistoryType.NODE_DEPARTED, DROPPED]
    assert change.status.sinks is not None
    (sink,) = change.status.sinks
    assert sink.delivered_sequence == 2
    assert sink.pending == 500
    assert len(outbox.pending(change.status.history or (), sink_filter, after=2)) == 500


def test_bounds_leave_room_for_what_may_not_give_way() -> None:
    """Present GPUs' arrivals and what is kept for people fit beside a Dropped entry."""
    held = history.KEPT_IDENTITY + history.KEPT_OTHERS + history.KEPT_SIGHTED
    assert 64 + held + history.KEPT_DEPARTED_UUIDS + 1 < MAX_HISTORY


@pytest.mark.parametrize(
    ("span", "counts"),
    [("nonsense", "nonsense"), ("", "GPUAdded=" + "9" * 200), ("9" * 128, "x" * 256)],
)
def test_a_dropped_entry_that_somebody_edited_is_replaced(span: str, counts: str) -> None:
    log = entries(*[HEALTH] * (MAX_HISTORY + 1))
    edited = log[0].model_copy(update={"type": DROPPED, "from_": span, "message": counts})
    kept = bound([edited, *log[1:]], waiting=numbers(log))
    assert (len(kept), kept[-1].type) == (MAX_HISTORY, DROPPED)
    assert len(kept[-1].from_ or "") <= MAX_FROM_TO and len(kept[-1].message or "") <= MAX_MESSAGE
