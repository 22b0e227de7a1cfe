"""When a node is read, and how long failures are waited out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuid_operator.plan.schedule import (
    BACKOFF_MAX,
    ReadState,
    backoff,
    full_jitter,
    next_interval_read,
    next_read_at,
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
        due = next_interval_read(NOW, interval, node=node)
        assert due is not None
        assert NOW + interval <= due <= NOW + interval * 1.1 + timedelta(microseconds=1)
        assert due == next_interval_read(NOW, interval, node=node)

    def test_spreads_a_fleet(self) -> None:
        dues = [next_interval_read(NOW, DAY, node=f"gpu-{n}") for n in range(1000)]
        minutes = {(due - NOW - DAY) // timedelta(minutes=12) for due in dues if due}
        assert minutes >= set(range(12))

    def test_zero_means_events_only(self) -> None:
        assert next_interval_read(NOW, timedelta(0), node="n") is None

    def test_beyond_all_time_is_never(self) -> None:
        assert next_interval_read(NOW, timedelta(days=999_999_999), node="n") is None


READ = ReadState(
    running=True,
    ready_container="c1",
    read_container="c1",
    last_read=NOW - HOUR,
    ok=True,
    interval=DAY,
    suspended=False,
    request_open=False,
)
INTERVAL = next_interval_read(NOW - HOUR, DAY, node="n")
RETRY, CONFIRM = NOW + timedelta(seconds=40), NOW + timedelta(seconds=7)
FAILING = replace(READ, ok=False, failed_container="c1", retry_at=RETRY)
HUNG = replace(FAILING, hung=True)


@pytest.mark.parametrize(
    ("read_state", "due"),
    [
        pytest.param(READ, INTERVAL, id="all is well"),
        pytest.param(replace(READ, interval=timedelta(0)), None, id="events only"),
        pytest.param(replace(READ, ready_container="c2"), NOW, id="restarted container"),
        pytest.param(
            replace(READ, read_container=None, last_read=None, ok=False), NOW, id="new node"
        ),
        pytest.param(replace(READ, ready_container=None), INTERVAL, id="not ready yet"),
        pytest.param(replace(READ, request_open=True), NOW, id="asked for"),
        pytest.param(replace(READ, ok=False), NOW, id="failed before a restart of the operator"),
        pytest.param(replace(READ, suspended=True, request_open=True), None, id="suspended"),
        pytest.param(replace(READ, running=False, request_open=True), None, id="no pod"),
        pytest.param(FAILING, RETRY, id="failing"),
        pytest.param(replace(FAILING, ready_container=None), RETRY, id="failing, not ready"),
        pytest.param(replace(FAILING, request_open=True), NOW, id="failing and asked for"),
        pytest.param(replace(FAILING, ready_container="c2"), NOW, id="failing, then restarted"),
        pytest.param(HUNG, RETRY, id="hung"),
        pytest.param(replace(HUNG, request_open=True), RETRY, id="hung and asked for"),
        pytest.param(replace(READ, confirm_at=CONFIRM), CONFIRM, id="a removal is pending"),
        pytest.param(
            replace(READ, ready_container="c2", confirm_at=CONFIRM),
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
    ],
)
def test_what_makes_a_read_due(read_state: ReadState, due: datetime | None) -> None:
    assert next_read_at(read_state, node="n", now=NOW) == due
