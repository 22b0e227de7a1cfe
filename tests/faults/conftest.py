"""The table of figures, and what the campaign shares with the cluster tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gpuid_operator.localcluster import binaries
from tests.cluster.conftest import cluster, local_cluster
from tests.faults.campaign import SEED, Figures, table

__all__ = ["cluster", "local_cluster"]  # fixtures

_ROWS = pytest.StashKey[list[Figures]]()


_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the servers before the first test: from nothing that takes minutes."""
    mine = any(_HERE in item.path.parents for item in session.items)
    if mine and not session.config.option.collectonly:
        binaries.resolve(real_node=False, progress=print)


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
