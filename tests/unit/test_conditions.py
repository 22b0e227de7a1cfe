"""What the conditions of an inventory say, and when they turn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gpuid_operator.api.inventory import (
    GPU,
    CheckStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    GPUHealth,
    GPUState,
    HistoryEntry,
    HistoryType,
    SinkStatus,
)
from gpuid_operator.plan import conditions
from gpuid_operator.plan.conditions import ConditionUpdate

NOW = datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)
TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
READY = ConditionType.READY


def gpu(state: GPUState = GPUState.OK, **health: object) -> GPU:
    return GPU(uuid="GPU-a", state=state, health=GPUHealth.model_validate(health))


@pytest.mark.parametrize(
    ("found", "status", "says"),
    [
        (gpu(), TRUE, ""),
        (gpu(recovery_action="None", ecc_uncorrected=7), TRUE, ""),
        (gpu(remapped_rows_pending=False, retired_pages_pending=False), TRUE, ""),
        (gpu(GPUState.LOST), FALSE, "lost"),
        (gpu(GPUState.RESET_REQUIRED), FALSE, "needs a reset"),
        (gpu(recovery_action="Drain and Reset"), FALSE, "recovery action Drain and Reset"),
        (gpu(remapped_rows_failed=True), FALSE, "row remap failed"),
        (gpu(remapped_rows_pending=True), FALSE, "row remap pending"),
        (gpu(retired_pages_pending=True), FALSE, "page retirement pending"),
        (gpu(GPUState.UNKNOWN), UNKNOWN, "failed to read GPU-a"),
        (GPU(uuid="GPU-a"), TRUE, ""),
    ],
)
def test_healthy(found: GPU, status: ConditionStatus, says: str) -> None:
    condition = conditions.healthy([GPU(uuid="GPU-0"), found])
    assert condition.status is status
    assert says in condition.message
    assert ("GPU-a" in condition.message) is (status is not TRUE)


def test_healthy_is_unknown_before_the_first_read_and_true_of_no_gpus() -> None:
    assert conditions.healthy(None).status is UNKNOWN
    assert conditions.healthy([]).status is TRUE


def sink(name: str, *, pending: int = 0, at: int = 0, error: str | None = None) -> SinkStatus:
    return SinkStatus(
        name=name, type="http", pending=pending, delivered_sequence=at, last_error=error
    )


@pytest.mark.parametrize(
    ("sinks", "status", "reason", "says"),
    [
        ([], TRUE, "NoSinks", ""),
        ([sink("a"), sink("b")], TRUE, "Delivered", ""),
        ([sink("a"), sink("b", pending=2)], FALSE, "Pending", "sink b: 2 pending"),
        (
            [sink("a", pending=1), sink("b", pending=2, error="Refused: 401 from cmdb")],
            FALSE,
            "Refused",
            "sink b: 2 pending: Refused: 401 from cmdb",
        ),
        (
            [
                sink("a", pending=1, error="Unavailable: x"),
                sink("b", pending=2, error="Refused: y"),
            ],
            FALSE,
            "DeliveryFailed",
            "sink a: 1 pending: Unavailable: x; sink b: 2 pending: Refused: y",
        ),
        ([sink("a", pending=1, error="no words of ours")], FALSE, "DeliveryFailed", "no words"),
        ([sink("a", pending=1, error="X" * 99 + ": y")], FALSE, "DeliveryFailed", "XXX"),
    ],
)
def test_delivered(
    sinks: list[SinkStatus], status: ConditionStatus, reason: str, says: str
) -> None:
    condition = conditions.delivered(sinks, [])
    assert (condition.status, condition.reason) == (status, reason)
    assert says in condition.message


def test_delivered_tells_an_overflow_until_the_sink_is_past_it() -> None:
    history = [
        HistoryEntry(sequence=7, time=NOW, type=HistoryType.DROPPED, message="3 entries"),
        HistoryEntry(sequence=8, time=NOW, type=HistoryType.GPU_ADDED),
    ]
    condition = conditions.delivered([sink("a", pending=2, at=5)], history)
    assert (condition.status, condition.reason) == (FALSE, "Overflow")
    assert condition.message == "3 entries; sink a: 2 pending"
    assert conditions.delivered([sink("a", pending=1, at=7)], history).reason == "Pending"
    assert conditions.delivered([sink("a", at=8)], history).status is TRUE


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        (None, None),
        ([], None),
        ([CheckStatus(name="a")], None),
        ([CheckStatus(name="a", passed=True), CheckStatus(name="b")], (TRUE, "")),
        (
            [
                CheckStatus(name="a", passed=False, exit_code=3),
                CheckStatus(name="b", passed=True, exit_code=0),
                CheckStatus(name="c", passed=False),
            ],
            (FALSE, "a: exit code 3; c: no exit code"),
        ),
    ],
)
def test_checks_passed(
    checks: list[CheckStatus] | None, expected: tuple[ConditionStatus, str] | None
) -> None:
    condition = conditions.checks_passed(checks)
    assert (condition and (condition.status, condition.message)) == expected


class TestUpdated:
    def update(
        self, before: list[Condition], condition: ConditionUpdate | None, *, after: int = 0
    ) -> list[Condition]:
        now = NOW + timedelta(minutes=after)
        return conditions.updated(before, {READY: condition}, now=now, generation=after)

    def test_the_time_moves_with_the_status_only(self) -> None:
        first = self.update([], ConditionUpdate(TRUE, "ReadOK"))
        same = self.update(first, ConditionUpdate(TRUE, "Suspended", "why"), after=1)
        assert same[0].last_transition_time == NOW
        assert (same[0].reason, same[0].message, same[0].observed_generation) == (
            "Suspended",
            "why",
            1,
        )
        turned = self.update(same, ConditionUpdate(FALSE, "ExecFailed"), after=2)
        assert turned[0].last_transition_time == NOW + timedelta(minutes=2)

    def test_what_is_not_judged_stays(self) -> None:
        first = conditions.updated(
            None,
            {ConditionType.HEALTHY: ConditionUpdate(TRUE, "GPUsHealthy")},
            now=NOW,
            generation=1,
        )
        both = self.update(first, ConditionUpdate(TRUE, "ReadOK"), after=3)
        assert [item.type for item in both] == ["Ready", "Healthy"]
        assert both[1] == first[0]

    def test_none_takes_one_away(self) -> None:
        assert self.update(self.update([], ConditionUpdate(TRUE, "ReadOK")), None) == []

    def test_those_of_other_writers_stay_out_of_our_writes(self) -> None:
        foreign = Condition(type="Cordoned", status=TRUE, reason="Drain", last_transition_time=NOW)
        (ours,) = self.update([foreign], ConditionUpdate(TRUE, "ReadOK"))
        assert ours.type == "Ready"

    def test_a_long_message_is_cut(self) -> None:
        (item,) = self.update([], ConditionUpdate(FALSE, "ExecFailed", "x" * 5000))
        assert len(item.message) < 1024
        assert item.message.endswith("…")
