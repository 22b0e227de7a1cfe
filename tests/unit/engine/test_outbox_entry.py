"""How a batch is bisected."""

from __future__ import annotations

from gpuid_operator.engine.delivery.outbox_entry import OutboxEntry, bisect, records_of
from tests.support.sink_worker import record


def entry(node: str, records: int) -> OutboxEntry:
    return OutboxEntry(node, node, 1, tuple(record(node, 1, part) for part in range(records)))


def test_a_batch_is_divided_between_entries() -> None:
    batch = [entry("a", 9), entry("b", 1), entry("c", 1)]
    assert bisect(batch) == (batch[:1], batch[1:])


def test_an_entry_is_divided_between_records_and_ends_with_its_last() -> None:
    whole = entry("a", 3)
    (first,), (second,) = bisect([whole])
    assert first.records + second.records == whole.records
    assert (len(first.records), first.is_end) == (1, False)
    assert (len(second.records), second.is_end) == (2, True)


def test_a_part_of_an_entry_that_is_divided_again_keeps_its_end() -> None:
    ends = [
        [one.is_end for part in bisect(half) for one in part] for half in bisect([entry("a", 4)])
    ]
    assert ends == [[False, False], [False, True]]


def test_the_records_of_a_batch_keep_their_order() -> None:
    assert records_of([entry("a", 2), entry("b", 1)]) == [
        record("a", 1, 0),
        record("a", 1, 1),
        record("b", 1, 0),
    ]
