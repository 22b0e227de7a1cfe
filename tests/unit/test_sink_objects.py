"""Objects of the s3 sink: a function of the records, in gpuid's layout."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import ObjectFormat, S3Sink
from gpuid_operator.api.values import format_time
from gpuid_operator.sinks.objects import objects_of

# Carriage returns apart: Python's reader, unlike Go's writer, cannot tell them from line ends.
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=12)
_RECORDS = st.lists(
    st.builds(
        Record,
        id=st.uuids().map(str),
        event=st.just("Sighted"),
        cluster=_TEXT,
        node=_TEXT,
        machine=_TEXT,
        source=_TEXT,
        chassis=_TEXT,
        gpu=_TEXT,
        time=st.datetimes(
            timezones=st.just(UTC), min_value=datetime(2026, 1, 1), max_value=datetime(2026, 1, 3)
        ),
        sequence=st.integers(1, 9),
    ),
    min_size=1,
    max_size=8,
)


def _row(record: Record) -> list[str]:
    first = [record.cluster, record.node, record.machine, record.source]
    return [*first, record.chassis, record.gpu, format_time(record.time)]


@given(_RECORDS)
def test_csv_reads_back_as_the_seven_columns(records: list[Record]) -> None:
    rows = [
        row
        for item in objects_of(records, S3Sink(bucket="b"))
        for row in csv.reader(io.StringIO(item.content.decode(), newline=""), strict=True)
    ]
    assert sorted(rows) == sorted(map(_row, records))


@given(_RECORDS)
def test_every_record_is_in_the_partition_of_its_hour(records: list[Record]) -> None:
    spec = S3Sink(bucket="b", prefix="p", format=ObjectFormat.JSONL)
    objects = objects_of(records, spec)
    assert objects == objects_of(records, spec)
    hours = {f"p/{r.time:year=%Y/month=%m/day=%d/hour=%H}" for r in records}
    assert {item.key.rpartition("/")[0] for item in objects} == hours
    assert len(objects) == len(hours)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("", ""),
        ("plain", "plain"),
        ("a,b", '"a,b"'),
        ('say "x"', '"say ""x"""'),
        (" space", '" space"'),
        ("space ", "space "),
        ("two\nlines", '"two\nlines"'),
        ("a\rb", '"a\rb"'),
        (r"\.", '"\\."'),
    ],
)
def test_fields_are_quoted_as_go_quotes_them(value: str, written: str) -> None:
    record = Record(
        id="1",
        event="Sighted",
        cluster=value,
        node="n",
        machine="m",
        source="s",
        chassis="c",
        gpu="g",
        time=datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC),
        sequence=1,
    )
    (item,) = objects_of([record], S3Sink(bucket="b"))
    assert item.content.decode() == f"{written},n,m,s,c,g,2026-06-07T10:30:45Z\n"
