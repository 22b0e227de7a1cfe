"""When a status must be written only because of the results of its checks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from gpuid_operator.api.inventory import CheckStatus, Condition, ConditionType
from gpuid_operator.plan.conditions import checks_passed, updated
from gpuid_operator.plan.unrecorded import has_unrecorded_results

FAILED = CheckStatus(name="a", passed=False, exit_code=1, transitions=1)
RECORDED = FAILED.model_copy(update={"recorded": 1})
OTHER_CODE = FAILED.model_copy(update={"exit_code": 2})
LONG = [CheckStatus(name=f"{n:02}-{'x' * 60}", passed=False, exit_code=1) for n in range(16)]


def condition(checks: Sequence[CheckStatus]) -> Condition | None:
    """ChecksPassed as a write with these results leaves it."""
    updates = {ConditionType.CHECKS_PASSED: checks_passed(checks)}
    written = updated(None, updates, now=datetime(2026, 6, 7, tzinfo=UTC), generation=1)
    return written[0] if written else None


@pytest.mark.parametrize(
    ("checks", "told", "unrecorded"),
    [
        pytest.param([], [], False, id="no checks"),
        pytest.param([CheckStatus(name="a")], [], False, id="check without a result"),
        pytest.param([FAILED], [], True, id="condition is missing"),
        pytest.param([FAILED], [FAILED], True, id="history lacks the transition"),
        pytest.param([RECORDED], [FAILED], False, id="everything is recorded"),
        pytest.param([RECORDED], [OTHER_CODE], True, id="condition says an older result"),
        pytest.param([], [FAILED], True, id="condition is left over from a removed check"),
        pytest.param(LONG, LONG, False, id="condition is shortened"),
    ],
)
def test_results_are_unrecorded_until_history_and_condition_have_them(
    checks: list[CheckStatus], told: list[CheckStatus], unrecorded: bool
) -> None:
    assert has_unrecorded_results(checks, condition(told)) is unrecorded
