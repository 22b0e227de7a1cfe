"""What the conftest.py of each folder does with the tests that are collected there."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from gpuid_operator.localcluster import binaries


def mark(items: list[pytest.Item], folder: Path, marker: pytest.MarkDecorator) -> None:
    """Mark every test of a folder."""
    for item in items:
        if folder in item.path.parents:
            item.add_marker(marker)


def will_run(session: pytest.Session, folder: Path) -> bool:
    """Whether tests of a folder are about to run."""
    mine = any(folder in item.path.parents for item in session.items)
    return mine and not session.config.option.collectonly


def build_servers(*, real_node: bool) -> None:
    """Build the servers before the first test: from nothing that takes minutes, which are not
    that test's to answer for."""
    # A worker of pytest-xdist shows nothing but its stderr.
    binaries.resolve(real_node=real_node, progress=partial(print, file=sys.stderr))
