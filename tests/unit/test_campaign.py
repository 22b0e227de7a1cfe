"""The table of the fault campaign."""

from __future__ import annotations

from tests.faults.campaign import Figures, table


def test_the_table_ends_with_the_time_of_all_tests() -> None:
    rows = [Figures("clock jumps", 100, 99, 18, 17, 1, seconds=4.6), Figures("rights", seconds=61)]
    lines = [line.split() for line in table(rows, seconds=90.2).splitlines()]
    assert lines[0][-1] == "SECONDS"
    assert lines[1] == ["clock", "jumps", "100", "99", "18", "17", "1", "5"]
    assert lines[2][-1] == "61"
    assert lines[3] == ["all", "tests", "90"]
