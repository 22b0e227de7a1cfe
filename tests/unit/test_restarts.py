"""The guards of restarts: the truth table of when a failed check may have its pod deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuid_operator.api.inventory import CheckStatus, InventoryStatus
from gpuid_operator.plan.checks import CheckResult, find, with_result
from gpuid_operator.plan.restarts import (
    RESTART_PAUSE,
    UNDER_WAY_PAUSE,
    CheckOnNode,
    RestartCase,
    after_restart,
    refusal,
    summarize,
    with_restart,
)
from gpuid_operator.plan.status_change import StatusContext

NOW = datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def on(
    node: str,
    *,
    name: str = "c",
    passed: bool = False,
    restarts: int | None = None,
    restarted: timedelta | None = None,
    ran: timedelta = timedelta(0),
    present: bool = True,
) -> CheckOnNode:
    """A check on a node; times before now."""
    check = CheckStatus(
        name=name,
        passed=passed,
        restarts=restarts,
        last_restart_time=None if restarted is None else NOW - restarted,
        last_run_time=NOW - ran,
    )
    return CheckOnNode(node, check, present)


def decide(
    *known: CheckOnNode,
    controlled: bool = True,
    recent: Sequence[tuple[str, timedelta]] = (),
    per_hour: int = 20,
) -> tuple[str, timedelta | None] | None:
    """Whether the check `c` of node `n` may restart its pod; the reason and when to ask again."""
    case = RestartCase(
        node="n",
        name="c",
        controlled=controlled,
        mine=next(
            (seen.check for seen in known if (seen.node, seen.check.name) == ("n", "c")), None
        ),
        known=summarize(known, now=NOW),
        recent=[(node, NOW - ago) for node, ago in recent],
        per_hour=per_hour,
    )
    refused = refusal(case, now=NOW)
    return None if refused is None else (refused.reason, refused.again)


HEALTHY = tuple(on(f"h{number}", passed=True) for number in range(50))


def test_a_single_failure_may_restart() -> None:
    assert decide(on("n")) is None
    assert decide(on("n"), *HEALTHY) is None


def test_a_pod_without_controller_never() -> None:
    assert decide(on("n"), controlled=False) == ("RestartRefused", None)


@pytest.mark.parametrize(("restarts", "allowed"), [(None, True), (2, True), (3, False), (4, False)])
def test_three_in_a_row(restarts: int | None, allowed: bool) -> None:
    found = decide(on("n", restarts=restarts, restarted=2 * HOUR))
    assert found == (None if allowed else ("RestartsExhausted", None))


@pytest.mark.parametrize(
    ("failing", "passing", "halted"),
    [
        (1, 0, False),
        (2, 0, False),
        (3, 0, True),
        (3, 27, False),
        (3, 26, True),
        (50, 450, False),
        (51, 449, True),
        (500, 0, True),
    ],
)
def test_a_failure_of_many_is_not_their_pods_fault(
    failing: int, passing: int, halted: bool
) -> None:
    known = [on("n"), *(on(f"f{number}") for number in range(failing - 1))]
    known += [on(f"p{number}", passed=True) for number in range(passing)]
    assert decide(*known) == (("RestartsHalted", None) if halted else None)


def test_nodes_that_are_gone_and_other_checks_do_not_count_as_failing() -> None:
    gone = [on(f"g{number}", present=False) for number in range(9)]
    other = [on(f"o{number}", name="other") for number in range(9)]
    assert decide(on("n"), *gone, *other) is None


@pytest.mark.parametrize("name", ["c", "other"])
def test_a_node_is_left_alone_for_ten_minutes_whichever_check_it_was(name: str) -> None:
    mine = on("n", restarted=4 * MINUTE) if name == "c" else on("n")
    known = [mine, on("n", name="other", passed=True, restarted=4 * MINUTE)]
    assert decide(*known) == ("RestartRefused", 6 * MINUTE)
    assert decide(on("n", restarted=RESTART_PAUSE)) is None


def test_one_at_a_time() -> None:
    before_its_run = on("x", name="other", restarted=MINUTE, ran=2 * MINUTE)
    assert decide(on("n"), before_its_run) == ("RestartRefused", UNDER_WAY_PAUSE)
    assert decide(on("n"), on("x", restarted=MINUTE, ran=MINUTE)) is not None
    assert decide(on("n"), on("x", restarted=2 * MINUTE, ran=MINUTE)) is None
    forgotten = on("x", restarted=RESTART_PAUSE, ran=HOUR)
    assert decide(on("n"), forgotten) is None


def test_a_restart_is_over_when_the_other_pod_was_asked_even_within_its_second() -> None:
    ran = CheckResult("c", "d", False, 1, "", "", "ns/old", NOW)
    failed = with_result(None, ran)
    noted = with_restart(failed, since=None, now=NOW)
    assert noted is not None
    again = with_result(noted, ran)
    assert decide(on("n"), CheckOnNode("x", again)) == ("RestartRefused", UNDER_WAY_PAUSE)
    fixed = with_result(noted, replace(ran, pod="ns/new"))
    assert decide(on("n"), CheckOnNode("x", fixed)) is None


def test_so_many_an_hour() -> None:
    known = [on(f"x{n}", passed=True, restarted=n * MINUTE) for n in range(15, 20)]
    assert decide(on("n"), *known, per_hour=6) is None
    assert decide(on("n"), *known, per_hour=5) == ("RestartRefused", 41 * MINUTE)
    assert decide(on("n"), per_hour=0) == ("RestartRefused", None)
    past = [on(f"x{n}", passed=True, restarted=HOUR) for n in range(5)]
    assert decide(on("n"), *past, per_hour=1) is None


def test_a_restart_in_the_future_is_no_guard() -> None:
    """The clock was stepped back."""
    assert decide(on("n", restarted=-24 * HOUR, ran=MINUTE)) is None
    assert decide(on("n"), on("x", restarted=-24 * HOUR, ran=MINUTE)) is None
    later = [on(f"x{n}", passed=True, restarted=-24 * HOUR) for n in range(5)]
    assert decide(on("n"), *later, per_hour=1) is None


def test_a_restart_that_is_ahead_by_a_moment_counts() -> None:
    assert decide(on("n", restarted=-30 * SECOND)) == ("RestartRefused", 10 * MINUTE + 30 * SECOND)


def test_what_this_process_did_counts_beside_what_statuses_hold() -> None:
    """A status has the last restart only; both together count each restart once."""
    known = on("x", passed=True, restarted=15 * MINUTE)
    recent = [("x", 30 * MINUTE), ("x", 15 * MINUTE)]
    assert decide(on("n"), known, recent=recent, per_hour=3) is None
    assert decide(on("n"), known, recent=recent, per_hour=2) == ("RestartRefused", 30 * MINUTE)
    assert decide(on("n"), recent=[("n", MINUTE)]) == ("RestartRefused", 9 * MINUTE)


@given(st.data())
def test_a_fleet_that_fails_everywhere_restarts_next_to_nothing(data: st.DataObject) -> None:
    """Results come one after the other, as at a start."""
    count = data.draw(st.integers(3, 60))
    known: list[CheckOnNode] = []
    done: list[tuple[str, datetime]] = []
    for number in range(count):
        node = f"n{number}"
        at = NOW + data.draw(st.integers(0, 30)) * SECOND
        known.append(CheckOnNode(node, CheckStatus(name="c", passed=False, last_run_time=at)))
        case = RestartCase(
            node=node,
            name="c",
            controlled=True,
            mine=known[-1].check,
            known=summarize(known, now=at),
            recent=done,
            per_hour=20,
        )
        if refusal(case, now=at) is None:
            check = with_restart(known[-1].check, since=None, now=at)
            assert check is not None
            known[-1] = CheckOnNode(node, check)
            done.append((node, at))
    assert 1 <= len(done) <= 2


def test_the_note_before_a_restart() -> None:
    status = InventoryStatus(checks=[CheckStatus(name="c", passed=False, stdout="kept")])
    noted = after_restart(status, "c", since=None, now=NOW, context=StatusContext()).status
    check = find(noted, "c")
    assert check is not None
    assert (check.restarts, check.last_restart_time, check.stdout) == (1, NOW, "kept")
    later = after_restart(noted, "c", since=NOW, now=NOW + HOUR, context=StatusContext()).status
    assert [c.restarts for c in later.checks or ()] == [2]


@pytest.mark.parametrize("name", ["c", "gone"])
def test_no_note_where_more_has_happened_than_was_known(name: str) -> None:
    """Another leader restarted it meanwhile, or the check is gone."""
    check = CheckStatus(name="c", passed=False, restarts=1, last_restart_time=NOW)
    status = InventoryStatus(checks=[check])
    change = after_restart(status, name, since=None, now=NOW + HOUR, context=StatusContext())
    assert change.status == status
