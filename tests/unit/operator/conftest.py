"""Unit tests of the process run under the jumping clock, against an API server in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.support.clock import JumpingLoop
from tests.support.kube import FakeKube


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every coroutine test of this folder: what would wait an hour takes no time."""
    return {"jumping": JumpingLoop}


@pytest.fixture
def kube() -> FakeKube:
    """A cluster without anything in it."""
    return FakeKube()
