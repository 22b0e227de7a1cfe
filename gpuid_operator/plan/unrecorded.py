"""Results of checks that history and conditions do not have yet, as after a run by another
instance."""

from __future__ import annotations

from collections.abc import Sequence

from gpuid_operator.api.inventory import CheckStatus, Condition
from gpuid_operator.api.values import truncate
from gpuid_operator.plan.checks import is_recorded
from gpuid_operator.plan.conditions import MAX_CONDITION_MESSAGE, checks_passed


def has_unrecorded_results(checks: Sequence[CheckStatus], condition: Condition | None) -> bool:
    """Whether a status must be written only because of its checks; `condition` is its ChecksPassed.

    each transition in history | ChecksPassed says the results | unrecorded
    ---------------------------|-------------------------------|-----------
    no                         | any                           | yes
    yes                        | no, or missing, or left over  | yes
    yes                        | yes                           | no
    """
    update = checks_passed(checks)
    expected = update and (update.reason, truncate(update.message, MAX_CONDITION_MESSAGE))
    actual = condition and (condition.reason, condition.message)
    return expected != actual or not all(map(is_recorded, checks))
