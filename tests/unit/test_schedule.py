"""When a node is read, and how long failures are waited out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuid_operator.plan.schedule import (
    BACKOFF_MAX,
    CLOCK_SKEW,
    ReadState,
    backoff,
    full_jitter,
    next_interval_read,
    next_read_at,
    right_time,
)

NOW = datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(hours=24)
CHANCES = st.floats(0, 1, exclude_max=True)


class TestBackoff:
    @given(st.integers(1, 10**6), CHANCES)
    def test_is_bounded_and_in_the_upper_half(self, failures: int, chance: float) -> None:
        wait = backoff(failures, chance=chance)
        ceiling = min(BACKOFF_MAX, SECOND * 2 ** min(failures - 1, 20))
        assert ceiling / 2 <= wait <= ceiling

    @given(st.integers(1, 10**6), CHANCES)
    def test_with_full_jitter_is_anywhere_below_the_bound(
        self, failures: int, chance: float
    ) -> None:
        most = timedelta(minutes=10)
        wait = full_jitter(failures, chance=chance, first=SECOND, most=most)
        assert timedelta(0) <= wait <= min(most, SECOND * 2 ** min(failures - 1, 20))

    def test_doubles_from_a_second_to_five_minutes(self) -> None:
        waits = [backoff(n, chance=0) * 2 / SECOND for n in range(1, 12)]
        assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


class TestInterval:
    @given(st.text(max_size=20), st.timedeltas(SECOND, timedelta(days=365)))
    def test_is_never_early_and_at_most_a_tenth_late(self, node: str, interval: timedelta) -> None:
        due = next_interval_read(NOW, interval, node=node, now=NOW)
        assert due is not None
        assert NOW + interval <= due <= NOW + interval * 1.1 + timedelta(microseconds=1)
        assert due == next_interval_read(NOW, interval, node=node, now=NOW)

    def test_spreads_a_fleet(self) -> None:
        dues = [next_interval_read(NOW, DAY, node=f"gpu-{n}", now=NOW) for n in range(1000)]
        minutes = {(due - NOW - DAY) // timedelta(minutes=12) for due in dues if due}
        assert minutes >= set(range(12))

    def test_zero_means_events_only(self) -> None:
        assert next_interval_read(NOW, timedelta(0), node="n", now=NOW) is None

    def test_beyond_all_time_is_never(self) -> None:
        assert next_interval_read(NOW, timedelta(days=999_999_999), node="n", now=NOW) is None

    @given(st.timedeltas(timedelta(0), timedelta(days=3650)), st.timedeltas(SECOND, DAY))
    def test_a_time_in_the_future_holds_no_read(
        self, ahead: timedelta, interval: timedelta
    ) -> None:
        due = next_interval_read(NOW + ahead, interval, node="n", now=NOW)
        assert due is not None
        assert due <= NOW + interval * 1.1
        if ahead > CLOCK_SKEW:
            assert due == NOW

    def test_a_time_that_is_ahead_by_a_moment_counts_as_now(self) -> None:
        due = next_interval_read(NOW + CLOCK_SKEW, DAY, node="n", now=NOW)
        assert due == next_interval_read(NOW, DAY, node="n", now=NOW)

    def test_without_an_interval_a_time_in_the_future_asks_for_nothing(self) -> None:
        assert next_interval_read(NOW + DAY, timedelta(0), node="n", now=NOW) is None


READ = ReadState(
    container="c1",
    ready=True,
    read_container="c1",
    last_read=NOW - HOUR,
    ok=True,
    interval=DAY,
    suspended=False,
    request_open=False,
)
INTERVAL = next_interval_read(NOW - HOUR, DAY, node="n", now=NOW)
RETRY, CONFIRM = NOW + timedelta(seconds=40), NOW + timedelta(seconds=7)
FAILING = replace(READ, ok=False, failed_container="c1", retry_at=RETRY)
HUNG = replace(FAILING, hung=True)
NEW = replace(READ, read_container=None, last_read=None, ok=False)
UNREADY = replace(READ, container="c2", ready=False)


@pytest.mark.parametrize(
    ("read_state", "due"),
    [
        pytest.param(READ, INTERVAL, id="all is well"),
        pytest.param(replace(READ, interval=timedelta(0)), None, id="events only"),
        pytest.param(replace(READ, container="c2"), NOW, id="restarted container"),
        pytest.param(NEW, NOW, id="new node"),
        pytest.param(replace(NEW, ready=False), None, id="new node, not ready"),
        pytest.param(
            replace(NEW, ready=False, request_open=True), NOW, id="new node, not ready, asked for"
        ),
        pytest.param(replace(READ, ready=False), INTERVAL, id="not ready any more"),
        pytest.param(UNREADY, INTERVAL, id="restarted container, not ready"),
        pytest.param(replace(UNREADY, ok=False), INTERVAL, id="failed, restarted, not ready"),
        pytest.param(replace(UNREADY, request_open=True), NOW, id="not ready and asked for"),
        pytest.param(
            replace(READ, ready=False, ok=False), NOW, id="failed in a container that was read"
        ),
        pytest.param(replace(READ, request_open=True), NOW, id="asked for"),
        pytest.param(replace(READ, ok=False), NOW, id="failed before a restart of the operator"),
        pytest.param(replace(READ, suspended=True, request_open=True), None, id="suspended"),
        pytest.param(replace(READ, container=None, request_open=True), None, id="no pod"),
        pytest.param(FAILING, RETRY, id="failing"),
        pytest.param(replace(FAILING, ready=False), RETRY, id="failing, not ready"),
        pytest.param(replace(FAILING, request_open=True), NOW, id="failing and asked for"),
        pytest.param(replace(FAILING, container="c2"), NOW, id="failing, then restarted"),
        pytest.param(
            replace(FAILING, container="c2", ready=False), INTERVAL, id="failing, other not ready"
        ),
        pytest.param(HUNG, RETRY, id="hung"),
        pytest.param(replace(HUNG, request_open=True), RETRY, id="hung and asked for"),
        pytest.param(replace(READ, confirm_at=CONFIRM), CONFIRM, id="a removal is pending"),
        pytest.param(
            replace(READ, container="c2", confirm_at=CONFIRM),
            CONFIRM,
            id="a removal is pending since the restart",
        ),
        pytest.param(
            replace(FAILING, confirm_at=CONFIRM), RETRY, id="a removal is pending, reads fail"
        ),
        pytest.param(
            replace(READ, confirm_at=CONFIRM, suspended=True),
            None,
            id="pending, suspended",
        ),
        pytest.param(replace(READ, reread_at=NOW), NOW, id="another inventory lists its GPU"),
        pytest.param(replace(READ, reread_at=RETRY), RETRY, id="and it was read just now"),
        pytest.param(
            replace(READ, reread_at=RETRY, interval=timedelta(0)), RETRY, id="and events only"
        ),
        pytest.param(
            replace(READ, reread_at=RETRY, confirm_at=CONFIRM),
            CONFIRM,
            id="and a removal is pending",
        ),
        pytest.param(
            replace(READ, reread_at=RETRY, interval=SECOND),
            next_interval_read(NOW - HOUR, SECOND, node="n", now=NOW),
            id="and the interval ends before",
        ),
        pytest.param(replace(FAILING, reread_at=NOW), RETRY, id="and its reads fail"),
        pytest.param(replace(READ, reread_at=NOW, suspended=True), None, id="and it is suspended"),
        pytest.param(replace(READ, reread_at=NOW, container=None), None, id="and it has no pod"),
        pytest.param(
            replace(UNREADY, reread_at=NOW), INTERVAL, id="and its container is not ready"
        ),
        pytest.param(replace(READ, last_read=NOW + DAY), NOW, id="read in the future"),
    ],
)
def test_what_makes_a_read_due(read_state: ReadState, due: datetime | None) -> None:
    assert next_read_at(read_state, node="n", now=NOW) == due


@pytest.mark.parametrize(
    ("read_state", "lacks"),
    [
        (READ, False),
        (replace(READ, container=None), True),
        (NEW, False),
        (replace(NEW, ready=False), True),
        (UNREADY, False),
    ],
)
def test_a_node_that_was_never_read_needs_a_ready_container(
    read_state: ReadState, lacks: bool
) -> None:
    assert read_state.lacks_container is lacks


@pytest.mark.parametrize(
    ("ahead", "known", "expected"),
    [
        (CLOCK_SKEW, True, CLOCK_SKEW),
        (-CLOCK_SKEW, True, -CLOCK_SKEW),
        (2 * CLOCK_SKEW, True, timedelta(0)),
        (-2 * CLOCK_SKEW, True, timedelta(0)),
        (2 * CLOCK_SKEW, False, 2 * CLOCK_SKEW),
    ],
)
def test_the_api_servers_time_counts_where_the_two_differ(
    ahead: timedelta, known: bool, expected: timedelta
) -> None:
    assert right_time(NOW + ahead, server=NOW if known else None) == NOW + expected
