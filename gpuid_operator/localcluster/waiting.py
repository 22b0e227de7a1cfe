"""Waiting for a condition instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from gpuid_operator.localcluster.errors import ServerError

T = TypeVar("T")


def wait_for(
    what: str,
    condition: Callable[[], T | None],
    *,
    timeout: float,
    interval: float = 0.1,
    hint: Callable[[], str] = lambda: "",
) -> T:
    """The first truthy value of `condition`; ServerError after `timeout` seconds.

    The error ends with `hint()`.
    """
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise ServerError(
                f"timed out after {timeout:.0f} s waiting for {what}. {hint()}".rstrip()
            )
        time.sleep(interval)
