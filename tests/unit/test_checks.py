"""Checks: what of an output is kept, when one is due, and what its results make of a status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpuid_operator.api.inventory import (
    CheckStatus,
    ConditionType,
    HistoryType,
    InventoryState,
    InventoryStatus,
    NodeInfo,
)
from gpuid_operator.api.meta import MAX_CHECK_OUTPUT
from gpuid_operator.api.values import encoded_size
from gpuid_operator.plan import conditions
from gpuid_operator.plan.checks import (
    CUT_MARK,
    CheckResult,
    after_check,
    digest_of,
    find,
    is_recorded,
    kept_output,
    recorded,
    with_result,
)
from gpuid_operator.plan.outbox import SinkFilter
from gpuid_operator.plan.status_change import StatusContext

NOW = datetime(2026, 6, 7, 10, 30, 45, 987_654, tzinfo=UTC)
SECOND = timedelta(seconds=1)
NODE = NodeInfo(name="node", machine="i-1")
CONTEXT = StatusContext(sink_filters=(SinkFilter("logs", "stdout", sightings=False),))


def result(passed: bool, *, name: str = "c", after: timedelta = timedelta(0)) -> CheckResult:
    return CheckResult(
        name=name,
        digest="d",
        passed=passed,
        exit_code=0 if passed else 3,
        stdout="so it is",
        stderr="" if passed else "\nso it is not\nand more",
        pod="ns/pod",
        time=NOW + after,
    )


class TestKeptOutput:
    @given(st.binary(max_size=3 * MAX_CHECK_OUTPUT))
    @example(b"\xf0\x9f\x98\x80" * 1024)
    @example(b"\xf0\x9f\x98\x80" * 1025)
    @example(b"<" * MAX_CHECK_OUTPUT)
    @example(b"\x00" * MAX_CHECK_OUTPUT)
    @example(b"\n" * 3 * MAX_CHECK_OUTPUT)
    @example(b"\r" * 3 * MAX_CHECK_OUTPUT)
    @example("\u2028".encode() * MAX_CHECK_OUTPUT)
    @example(b"\n" + b"x" * 2 * MAX_CHECK_OUTPUT)
    def test_any_bytes_fit_by_the_counting_of_schema_and_etcd(self, data: bytes) -> None:
        kept = kept_output(data)
        assert encoded_size(kept) <= MAX_CHECK_OUTPUT
        assert CheckStatus(name="c", stdout=kept).stdout == kept
        assert not set(kept) & {chr(code) for code in (*range(9), *range(11, 32), 127, 0x202E)}

    @given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf"]), max_size=600))
    def test_text_is_kept_as_it_is(self, text: str) -> None:
        assert kept_output(text.encode() + b"\n") == text

    @given(st.lists(st.text("abc <ä", min_size=1, max_size=80), min_size=60, max_size=400))
    def test_what_is_too_long_is_cut_at_a_line_and_marked(self, lines: list[str]) -> None:
        text = "\n".join(lines)
        kept = kept_output(text.encode())
        if encoded_size(text) <= MAX_CHECK_OUTPUT:
            assert kept == text
        else:
            assert kept.endswith(CUT_MARK)
            head = kept.removesuffix(CUT_MARK).split("\n")
            assert head == lines[: len(head)]
            longest = max(map(encoded_size, lines)) + 4
            assert encoded_size(kept) + longest > MAX_CHECK_OUTPUT

    def test_one_endless_line_is_cut_where_it_must_be(self) -> None:
        kept = kept_output(b"x" * 1_000_000)
        assert kept.startswith("xxx") and kept.endswith("x" + CUT_MARK)
        assert encoded_size(kept) == MAX_CHECK_OUTPUT

    @pytest.mark.parametrize(
        ("data", "kept"),
        [
            (b"", ""),
            (b"a\n\n", "a"),
            (b"\n\na", "\n\na"),
            (b"a\r\nb\rc", "a\nb\nc"),
            (b"\ttab\n", "\ttab"),
            (b"\x1b[2Jgone", "\ufffd[2Jgone"),
            (b"\x00\xff", "\ufffd\ufffd"),
            ("a\u202eb".encode(), "a\ufffdb"),
            ("nothing\u00a0lost €".encode(), "nothing\u00a0lost €"),
        ],
    )
    def test_bytes_that_are_no_text(self, data: bytes, kept: str) -> None:
        assert kept_output(data) == kept


class TestResults:
    @given(st.lists(st.booleans(), min_size=1, max_size=30))
    def test_each_turn_is_a_transition_and_one_entry(self, results: list[bool]) -> None:
        status, said = InventoryStatus(), []
        for number, passed in enumerate(results):
            change = after_check(status, result(passed), node=None, now=NOW, context=CONTEXT)
            status = change.status
            said += [(number, entry.type) for entry in change.entries]
        turns = [
            (number, HistoryType.CHECK_PASSED if passed else HistoryType.CHECK_FAILED)
            for number, passed in enumerate(results)
            if passed != (results[number - 1] if number else True)
        ]
        assert said == turns
        check = find(status, "c")
        assert check is not None and is_recorded(check)
        assert (check.transitions, check.recorded or 0) == (len(turns), len(turns))
        assert check.passed is results[-1]

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
    def test_transitions_that_another_wrote_are_recorded_once(
        self, runs: list[tuple[bool, bool]]
    ) -> None:
        """A runner writes results; the inventory instance looks after some of them only."""
        status, entries = InventoryStatus(), 0
        for passed, looks in [*runs, (runs[-1][0], True)]:
            written = with_result(find(status, "c"), result(passed))
            status = status.model_copy(update={"checks": [written]})
            if looks:
                change = recorded(status, now=NOW, context=CONTEXT)
                status, entries = change.status, entries + len(change.entries)
        check = find(status, "c")
        assert check is not None and is_recorded(check)
        assert entries <= (check.transitions or 0)
        assert recorded(status, now=NOW, context=CONTEXT).entries == ()
        last = [entry for entry in status.history or () if entry.to]
        assert not last or (last[-1].type is HistoryType.CHECK_PASSED) is runs[-1][0]

    def test_a_first_failure_says_what_the_command_said(self) -> None:
        change = after_check(InventoryStatus(), result(False), node=NODE, now=NOW, context=CONTEXT)
        (entry,) = change.entries
        assert (entry.type, entry.from_, entry.to) == (HistoryType.CHECK_FAILED, None, "c=failed")
        assert entry.message == "check c failed with exit code 3: so it is not"
        assert (entry.source, entry.machine) == ("ns/pod", "i-1")
        assert change.status.state is InventoryState.PRESENT
        condition = conditions.find(change.status.conditions, ConditionType.CHECKS_PASSED)
        assert condition is not None
        assert (condition.status, condition.reason) == ("False", "ChecksFailed")

    def test_what_was_missed_is_counted(self) -> None:
        check = CheckStatus(name="c", passed=True, transitions=5, recorded=2, exit_code=0)
        (entry,) = recorded(InventoryStatus(checks=[check]), now=NOW, context=CONTEXT).entries
        assert (entry.from_, entry.to) == ("c=failed", "c=passed")
        assert entry.message == "check c passed with exit code 0 (after 3 changes)"

    def test_times_and_restarts(self) -> None:
        failed = with_result(None, result(False))
        assert failed.last_run_time == failed.last_transition_time == NOW.replace(microsecond=0)
        failed = failed.model_copy(update={"restarts": 2})
        again = with_result(failed, result(False, after=SECOND))
        assert (again.restarts, again.last_run_time) == (2, NOW.replace(microsecond=0) + SECOND)
        assert again.last_transition_time == failed.last_transition_time
        passed = with_result(again, result(True, after=2 * SECOND))
        assert (passed.restarts, passed.last_transition_time) == (None, passed.last_run_time)

    def test_results_of_checks_that_nobody_wants_any_more_go(self) -> None:
        context = StatusContext(sink_filters=CONTEXT.sink_filters, checks=frozenset({"a"}))
        status = InventoryStatus(checks=[with_result(None, result(True, name="b"))])
        status = after_check(
            status, result(True, name="a"), node=None, now=NOW, context=context
        ).status
        assert [check.name for check in status.checks or ()] == ["a"]


def test_a_digest_tells_its_parts_apart() -> None:
    digests = {digest_of("a", "b"), digest_of("ab", ""), digest_of("a", "c"), digest_of("ab")}
    assert len(digests) == 4
