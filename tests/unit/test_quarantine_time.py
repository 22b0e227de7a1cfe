"""The time by which quarantines end, row by row of the table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gpuid_operator.plan.quarantine_time import quarantine_time
from gpuid_operator.plan.schedule import CLOCK_SKEW

NOW = datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)
MOMENT = timedelta(seconds=1)
YEARS = timedelta(days=3650)


@pytest.mark.parametrize("sign", [1, -1])
def test_it_follows_the_api_server_where_the_clocks_differ(sign: int) -> None:
    def seen(off: timedelta) -> datetime:
        return quarantine_time(NOW + sign * off, server=NOW)

    assert seen(CLOCK_SKEW) == NOW + sign * CLOCK_SKEW
    assert seen(CLOCK_SKEW + MOMENT) == NOW
    assert seen(YEARS) == NOW


def test_a_clock_without_another_is_right() -> None:
    assert quarantine_time(NOW + YEARS, server=None) == NOW + YEARS


def test_it_does_not_step_back_between_two_right_times() -> None:
    behind = 2 * CLOCK_SKEW
    assert quarantine_time(NOW - behind, server=None, last=NOW) == NOW
    assert quarantine_time(NOW - behind - MOMENT, server=None, last=NOW) == NOW - behind - MOMENT
    assert quarantine_time(NOW + MOMENT, server=None, last=NOW) == NOW + MOMENT
    assert quarantine_time(NOW - YEARS, server=NOW - MOMENT, last=NOW) == NOW
