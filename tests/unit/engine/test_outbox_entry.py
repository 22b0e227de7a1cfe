"""What a batch is made of, and how it is divided."""

from __future__ import annotations

from gpuid_operator.engine.parcel import Parcel, halves
from tests.support.sink_worker import record


def parcel(node: str, records: int) -> Parcel:
    return Parcel(node, node, 1, tuple(record(node, 1, part) for part in range(records)))


def test_a_batch_is_divided_between_entries() -> None:
    batch = [parcel("a", 9), parcel("b", 1), parcel("c", 1)]
    assert halves(batch) == (batch[:1], batch[1:])


def test_an_entry_is_divided_between_records_and_ends_with_its_last() -> None:
    whole = parcel("a", 3)
    parts = halves([whole])
    assert parts is not None
    (first,), (second,) = parts
    assert first.records + second.records == whole.records
    assert (len(first.records), first.is_end) == (1, False)
    assert (len(second.records), second.is_end) == (2, True)


def test_a_part_of_an_entry_that_is_divided_again_keeps_its_end() -> None:
    parts = halves([parcel("a", 4)])
    assert parts is not None
    ends = [[one.is_end for part in halves(half) or () for one in part] for half in parts]
    assert ends == [[False, False], [False, True]]


def test_a_single_record_is_not_divided() -> None:
    assert halves([parcel("a", 1)]) is None
