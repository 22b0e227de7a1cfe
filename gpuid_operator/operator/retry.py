"""Retries of what the process cannot do without: it waits for a person, not for a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from gpuid_operator.kube.errors import KubeError
from gpuid_operator.operator.health import Health
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

LONGEST_PAUSE: Final = 30.0
"""Seconds between two attempts, once several have failed."""

T = TypeVar("T")


async def until_success(failure: str, attempt: Callable[[], Awaitable[T]], *, health: Health) -> T:
    """Try until it works. Meanwhile the instance is not ready, and the reason is `failure` (such as
    "failed to list the cluster") with the error of the last attempt."""
    pause = 1.0
    while True:
        try:
            return await attempt()
        except KubeError as error:
            health.set_unready(f"{failure}: {error.message}")
            _log.error(failure, error=error.message, again_in=f"{pause:g}s")
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
