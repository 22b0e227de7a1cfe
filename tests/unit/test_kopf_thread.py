"""What is logged of the loop in which Kopf watches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from gpuid_operator.operator.kopf_thread import log_loop_error


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
        asyncio.get_running_loop().set_exception_handler(log_loop_error)
        assert await anext(events) == 1

    asyncio.run(watch())
    assert errors(caplog) == []


def test_other_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def watch() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_loop_error)

        def fail() -> None:
            raise ValueError

        loop.call_soon(fail)
        await asyncio.sleep(0)

    asyncio.run(watch())
    (message,) = errors(caplog)
    assert message.startswith("Exception in callback")
