"""Durations as Go writes them, and times as Kubernetes does."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpuid_operator.api.values import (
    DURATION_PATTERN,
    Duration,
    Model,
    Time,
    format_duration,
    format_time,
    parse_duration,
)


class Timer(Model):
    wait_for: Duration | None = None
    since: Time | None = None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", timedelta(0)),
        ("0s", timedelta(0)),
        ("30s", timedelta(seconds=30)),
        ("1m30s", timedelta(seconds=90)),
        ("500ms", timedelta(milliseconds=500)),
        ("1.5h", timedelta(minutes=90)),
        (".5s", timedelta(milliseconds=500)),
        ("1.s", timedelta(seconds=1)),
        ("24h", timedelta(days=1)),
        ("1h1h", timedelta(hours=2)),
        ("10us", timedelta(microseconds=10)),
        ("10µs", timedelta(microseconds=10)),
        ("1000ns", timedelta(microseconds=1)),
        (" 5s ", timedelta(seconds=5)),
    ],
)
def test_durations_as_go_reads_them(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "30", "s", "1d", "-1s", "1s -2s", "1 s", "1s2", "1,5s", "1h30", "1e3s", "inf", "٣s"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="a duration such as 30s"):
        parse_duration(text)


def test_a_duration_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="at most"):
        parse_duration("99999999999999h")


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        assert parse_duration(text) >= timedelta(0)
    except ValueError as error:
        assert str(error).startswith("a duration ")


TEN_YEARS = 87_600 * 3_600_000
MILLISECONDS = st.integers(0, TEN_YEARS).map(lambda n: timedelta(milliseconds=n))


@given(MILLISECONDS)
def test_what_is_written_reads_the_same_and_fits_the_schema(value: timedelta) -> None:
    text = format_duration(value)
    assert parse_duration(text) == value
    assert re.fullmatch(DURATION_PATTERN, text)
    assert len(text) <= 32


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(hours=24), "24h"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(milliseconds=1500), "1s500ms"),
        (timedelta(days=30), "720h"),
    ],
)
def test_durations_as_they_are_written(value: timedelta, text: str) -> None:
    assert format_duration(value) == text


def test_a_field_takes_the_text_and_gives_it_back() -> None:
    timer = Timer.model_validate({"waitFor": "1m30s"})
    assert timer.wait_for == timedelta(seconds=90)
    assert timer.to_json() == {"waitFor": "1m30s"}
    with pytest.raises(ValueError, match="a duration such as"):
        Timer.model_validate({"waitFor": "soon"})


def test_times_are_whole_seconds_in_utc() -> None:
    moment = datetime(2026, 6, 7, 12, 30, 45, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(moment) == "2026-06-07T10:30:45Z"
    timer = Timer(since=moment)
    assert timer.since == datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)
    assert timer.to_json() == {"since": "2026-06-07T10:30:45Z"}
    assert Timer.model_validate(timer.to_json()) == timer


@given(st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC)))
def test_a_time_that_was_stored_compares_equal(moment: datetime) -> None:
    timer = Timer(since=moment)
    assert Timer.model_validate(timer.to_json()) == timer


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_that_is_out_of_range_in_utc_is_invalid(text: str) -> None:
    """The API server stores it."""
    with pytest.raises(ValidationError, match="between the years 1 and 9999"):
        Timer.model_validate({"since": text})
