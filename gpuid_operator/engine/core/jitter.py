"""The chance in the pauses of the engine; `plan/schedule.py` decides how it spreads them."""

from __future__ import annotations

import random


def chance() -> float:
    """A number in [0, 1) for `backoff` and `full_jitter`. It keeps no secret."""
    return random.random()  # noqa: S311
