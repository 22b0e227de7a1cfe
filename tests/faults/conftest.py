"""The table of figures, and what the campaign shares with the cluster tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.cluster.conftest import cluster, local_cluster
from tests.faults.campaign import SEED, Figures, table
from tests.support.collection import build_servers, mark, will_run

__all__ = ["cluster", "local_cluster"]  # fixtures

_ROW = "figures"
_HERE = Path(__file__).parent
_PREFIX = "tests/faults/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items, _HERE, pytest.mark.cluster)


def pytest_collection_finish(session: pytest.Session) -> None:
    if will_run(session, _HERE):
        build_servers(real_node=False)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Figures]]:
    """`figures("api faults")` adds a row to the table, for the test to count in."""
    rows: list[Figures] = []

    def add(campaign: str) -> Figures:
        rows.append(row := Figures(campaign))
        return row

    yield add
    # A worker of pytest-xdist prints no table: the report takes them to the process that does.
    request.node.user_properties += [(_ROW, asdict(row)) for row in rows]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) and report.nodeid.startswith(_PREFIX)
    ]
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        seconds[report.nodeid] += report.duration
    rows = [
        Figures(**figures | {"seconds": seconds[report.nodeid]})
        for report in reports
        if report.when == "teardown"
        for name, figures in report.user_properties
        if name == _ROW
    ]
    if rows:
        terminalreporter.section(f"fault campaign, FAULTS_SEED={SEED}")
        terminalreporter.write_line(table(rows, seconds=sum(seconds.values())))
