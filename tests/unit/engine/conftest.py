"""Unit tests of the engine run under the jumping clock, against an API server in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from gpuid_operator.engine.core import turns
from tests.support.clock import JumpingLoop
from tests.support.kube import FakeKube


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every coroutine test of this folder: what would wait an hour takes no time."""
    return {"jumping": JumpingLoop}


@pytest.fixture
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in turns lets other tasks run after each item."""
    monkeypatch.setattr(turns, "HOLD", -1.0)
    monkeypatch.setattr(turns.TURNS, "_end", 0.0)


@pytest.fixture
def kube() -> FakeKube:
    """A cluster without anything in it."""
    return FakeKube()
