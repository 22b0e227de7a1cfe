"""What the process cannot do without is tried until it works."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from gpuid_operator.operator.health import Health
from gpuid_operator.operator.retry import until_success
from tests.support.kube import forbidden


async def test_it_tries_with_growing_pauses_and_says_why_it_is_not_ready(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = asyncio.get_running_loop()
    health, times = Health(), []

    async def attempt() -> str:
        times.append(loop.time())
        if len(times) < 8:
            raise forbidden()
        return "listed"

    assert await until_success("failed to list the cluster", attempt, health=health) == "listed"
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 30, 30])
    assert health.ready == (False, "failed to list the cluster: forbidden")
    assert {record.message for record in caplog.records} == {"failed to list the cluster"}
    assert [record.__dict__["fields"]["again_in"] for record in caplog.records][:3] == [
        "1s",
        "2s",
        "4s",
    ]


async def test_an_error_that_is_not_the_clusters_is_raised() -> None:
    async def attempt() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await until_success("failed to list the cluster", attempt, health=Health())
