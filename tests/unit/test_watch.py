"""What is told of the loop in which Kopf watches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from gpuid_operator.operator.watch import tell_fault


async def stubborn() -> AsyncIterator[int]:
    """As Kopf's stream of events, when it is closed while it waits."""
    with suppress(GeneratorExit):
        yield 1
    yield 2


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_generator_that_is_closed_at_the_end_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = stubborn()

    async def watch() -> None:
        asyncio.get_running_loop().set_exception_handler(tell_fault)
        assert await anext(events) == 1

    asyncio.run(watch())
    assert errors(caplog) == []


def test_other_faults_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async def watch() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(tell_fault)

        def fail() -> None:
            raise ValueError

        loop.call_soon(fail)
        await asyncio.sleep(0)

    asyncio.run(watch())
    (message,) = errors(caplog)
    assert message.startswith("Exception in callback")
