"""When a check is due, by its last result and by the attempts of this process."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpuid_operator.api.inventory import CheckStatus
from gpuid_operator.plan.check_due import CheckAttempts, CheckPlacement, next_run_at
from gpuid_operator.plan.checks import CheckResult, with_result
from gpuid_operator.plan.schedule import BACKOFF_FIRST, BACKOFF_MAX

NOW = datetime(2026, 6, 7, 10, 30, 45, 987_654, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

LAST = CheckStatus(
    name="c", passed=True, command_digest="d", pod="ns/pod", last_run_time=NOW - MINUTE
)
PLACE = CheckPlacement(
    node="node",
    digest="d",
    interval=HOUR,
    pod="ns/pod",
    container_id="containerd://1",
    started=NOW - 90 * SECOND,
)
ASKED = CheckAttempts("containerd://1")
OTHER = CheckAttempts("containerd://0", failures=9, not_before=NOW + HOUR)


def wait(
    last: CheckStatus | None = LAST,
    attempts: CheckAttempts | None = None,
    place: CheckPlacement = PLACE,
    **changed: Any,
) -> timedelta | None:
    """How long until the check runs."""
    changed_place = replace(place, **changed)
    at = next_run_at(last, changed_place, attempts, now=NOW)
    return None if at is None else at - NOW


@pytest.mark.parametrize("attempts", [None, ASKED, OTHER])
@pytest.mark.parametrize(
    ("last", "changed"),
    [
        (None, {}),
        (CheckStatus(name="c", restarts=1), {}),
        (LAST, {"digest": "other"}),
    ],
)
def test_a_check_without_a_result_of_this_command_runs_now(
    last: CheckStatus | None, changed: dict[str, Any], attempts: CheckAttempts | None
) -> None:
    assert wait(last, attempts, **changed) == timedelta(0)


@pytest.mark.parametrize(
    ("attempts", "changed", "now"),
    [
        (None, {}, False),
        (None, {"started": None}, False),
        (None, {"pod": "ns/other"}, True),
        (None, {"started": NOW - 60 * SECOND}, True),
        (None, {"started": NOW - 59 * SECOND}, True),
        (OTHER, {}, True),
        (ASKED, {}, False),
        # By its times, the container of a node whose clock is ahead starts after every run.
        (ASKED, {"started": NOW + HOUR}, False),
    ],
)
def test_a_container_that_has_not_run_the_check_runs_it_now(
    attempts: CheckAttempts | None, changed: dict[str, Any], now: bool
) -> None:
    found = wait(LAST, attempts, **changed)
    assert found is not None and (found == timedelta(0)) is now


def test_the_interval_counts_from_the_last_run_and_is_spread_by_up_to_a_tenth() -> None:
    found = wait()
    assert found is not None and HOUR - MINUTE <= found <= 1.1 * HOUR - MINUTE


def test_without_an_interval_only_another_container_runs_the_check() -> None:
    assert wait(interval=timedelta(0)) is None
    assert wait(interval=timedelta(0), attempts=OTHER) == timedelta(0)


@pytest.mark.parametrize(
    ("again", "not_before", "expected"),
    [
        (None, None, None),
        (5 * SECOND, None, 5 * SECOND),
        (-5 * SECOND, None, -5 * SECOND),
        (5 * SECOND, 5 * SECOND, 5 * SECOND),
        (5 * SECOND, 9 * SECOND, 9 * SECOND),
        (None, 9 * SECOND, None),
        (50 * MINUTE, None, None),
    ],
)
def test_attempts_bring_a_run_forward_and_a_back_off_postpones_it(
    again: timedelta | None, not_before: timedelta | None, expected: timedelta | None
) -> None:
    """None stands for the time that the interval gives."""
    attempts = replace(
        ASKED,
        run_again_at=None if again is None else NOW + again,
        not_before=None if not_before is None else NOW + not_before,
    )
    found = wait(LAST, attempts, interval=HOUR / 2)
    assert found == (wait(interval=HOUR / 2) if expected is None else expected)


def test_a_back_off_postpones_a_run_that_is_due() -> None:
    attempts = replace(ASKED, not_before=NOW + 4 * MINUTE)
    assert wait(LAST, attempts, interval=MINUTE) == 4 * MINUTE


@pytest.mark.parametrize("attempts", [None, ASKED])
@pytest.mark.parametrize("interval", [timedelta(0), HOUR])
def test_a_run_in_the_future_holds_no_run(
    attempts: CheckAttempts | None, interval: timedelta
) -> None:
    future = LAST.model_copy(update={"last_run_time": NOW + 24 * HOUR})
    assert wait(future, attempts, interval=interval) == timedelta(0)


def test_a_retry_does_not_need_an_interval() -> None:
    attempts = replace(ASKED, run_again_at=NOW + MINUTE)
    assert wait(LAST, attempts, interval=timedelta(0)) == MINUTE
    assert wait(LAST, replace(ASKED, not_before=NOW + MINUTE), interval=timedelta(0)) is None


@pytest.mark.parametrize("retry", [False, True])
def test_failures_back_off_and_a_success_ends_it(retry: bool) -> None:
    attempts, waits = ASKED, []
    for _ in range(12):
        attempts = attempts.backed_off(retry=retry, now=NOW, chance=0.999)
        assert attempts.not_before is not None
        waits.append(attempts.not_before - NOW)
        assert attempts.run_again_at == (attempts.not_before if retry else None)
    assert waits == sorted(waits)
    assert waits[0] <= BACKOFF_FIRST and BACKOFF_MAX * 0.99 <= waits[-1] <= BACKOFF_MAX
    assert attempts.failures == 12
    assert attempts.succeeded() == ASKED


def test_a_refused_restart_asks_for_another_run() -> None:
    assert ASKED.again_in(MINUTE, now=NOW).run_again_at == NOW + MINUTE
    assert ASKED.again_in(MINUTE, now=NOW).again_in(None, now=NOW) == ASKED


def test_a_container_that_started_in_the_second_of_its_run_has_run_the_check() -> None:
    second = NOW.replace(microsecond=0)
    result = CheckResult("c", "d", True, 0, "", "", "ns/pod", NOW, started=second)
    ran = with_result(None, result)
    assert ran.last_run_time == second + SECOND
    for started, asked in ((second, True), (second + SECOND, False)):
        at = next_run_at(ran, replace(PLACE, started=started), None, now=NOW + 5 * SECOND)
        assert at is not None and (at > NOW + 59 * MINUTE) is asked
