"""What a batch is made of, and how it is divided."""

from __future__ import annotations

from gpuid_operator.engine.delivery.outbox_entry import OutboxEntry, bisect
from tests.support.sink_worker import record


def outbox_entry(node: str, records: int) -> OutboxEntry:
    return OutboxEntry(node, node, 1, tuple(record(node, 1, part) for part in range(records)))


def test_a_batch_is_divided_between_entries() -> None:
    batch = [outbox_entry("a", 9), outbox_entry("b", 1), outbox_entry("c", 1)]
    assert bisect(batch) == (batch[:1], batch[1:])


def test_an_entry_is_divided_between_records_and_ends_with_its_last() -> None:
    whole = outbox_entry("a", 3)
    parts = bisect([whole])
    assert parts is not None
    (first,), (second,) = parts
    assert first.records + second.records == whole.records
    assert (len(first.records), first.is_end) == (1, False)
    assert (len(second.records), second.is_end) == (2, True)


def test_a_part_of_an_entry_that_is_divided_again_keeps_its_end() -> None:
    parts = bisect([outbox_entry("a", 4)])
    assert parts is not None
    ends = [[one.is_end for part in bisect(half) or () for one in part] for half in parts]
    assert ends == [[False, False], [False, True]]


def test_a_single_record_is_not_divided() -> None:
    assert bisect([outbox_entry("a", 1)]) is None
