"""The table of figures, and what the campaign shares with the cluster tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.conftest import cluster, local_cluster
from tests.faults.campaign import SEED, Figures, table

__all__ = ["cluster", "local_cluster"]  # fixtures

_ROWS = pytest.StashKey[list[Figures]]()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str], Figures]:
    """`figures("api faults")` adds a row to the table, for the test to count in."""
    rows = request.config.stash.setdefault(_ROWS, [])

    def add(campaign: str) -> Figures:
        rows.append(row := Figures(campaign))
        return row

    return add


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if rows := config.stash.get(_ROWS, []):
        terminalreporter.section(f"fault campaign, FAULTS_SEED={SEED}")
        terminalreporter.write_line(table(rows))
