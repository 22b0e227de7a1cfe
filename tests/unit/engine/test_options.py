"""The engine's settings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gpuid_operator.engine.core.options import utcnow
from tests.support.engines import options


def test_what_is_not_set_is_safe() -> None:
    given = options()
    assert not given.checks_allowed
    assert not given.suspended
    assert given.timings.resync == timedelta(minutes=10)


def test_the_clock_is_utc() -> None:
    before = datetime.now(UTC)
    assert before <= utcnow() <= datetime.now(UTC)
    assert utcnow().tzinfo is UTC
