"""When a sink that failed is tried again, and when its error is reported: the table."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gpuid_operator.plan.delivery_retry import is_logged, is_reported, refusal_pause, retry_pause

LONGEST = timedelta(minutes=10)
ALMOST_ONE = 1 - 2**-53


@pytest.mark.parametrize(
    ("failures", "chance", "retry_after", "seconds"),
    [
        (1, 0.0, None, 0),
        (1, 0.5, None, 0.5),
        (2, 0.5, None, 1),
        (10, 0.5, None, 256),
        (11, 0.5, None, 300),
        (11, ALMOST_ONE, None, 600),
        (10**6, 0.5, None, 300),
        (1, 0.5, 90.0, 90),
        (11, 0.5, 90.0, 300),
        (1, 0.5, 21_600.0, 21_600),
        (1, 0.5, 1e9, 21_600),
    ],
)
def test_the_pause_of_an_unavailable_sink(
    failures: int, chance: float, retry_after: float | None, seconds: float
) -> None:
    pause = retry_pause(failures, chance=chance, longest=LONGEST, retry_after=retry_after)
    assert pause.total_seconds() == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("chance", "retry_after", "seconds"),
    [
        (0.0, None, 300),
        (0.5, None, 450),
        (ALMOST_ONE, None, 600),
        (0.5, 1.0, 450),
        (0.5, 900.0, 900),
        (0.5, 1e9, 21_600),
    ],
)
def test_the_pause_of_a_sink_that_refuses(
    chance: float, retry_after: float | None, seconds: float
) -> None:
    pause = refusal_pause(chance=chance, longest=LONGEST, retry_after=retry_after)
    assert pause.total_seconds() == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("failures", "refused", "logged", "reported"),
    [
        (1, False, True, False),
        (2, False, False, False),
        (3, False, False, True),
        (9, False, False, True),
        (10, False, True, True),
        (11, False, False, True),
        (20, False, True, True),
        (1, True, True, True),
        (2, True, True, True),
    ],
)
def test_who_learns_of_a_failure(
    failures: int, refused: bool, logged: bool, reported: bool
) -> None:
    assert is_logged(failures, refused=refused) is logged
    assert is_reported(failures, refused=refused) is reported
