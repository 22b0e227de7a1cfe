"""Percentiles and other summaries of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` percent of the samples do not exceed.

    It is always one of the samples: the 99th percentile of fewer than 100 is the largest. Raises
    ValueError without samples and for a share that is not above 0 and at most 100.
    """
    if not samples or not 0 < share <= 100:
        raise ValueError(f"no percentile {share} of {len(samples)} samples")
    return sorted(samples)[math.ceil(share / 100 * len(samples)) - 1]


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Count, median, 99th percentile and maximum of durations, in milliseconds."""
    milliseconds = [1000 * one for one in seconds]
    return {
        "samples": len(milliseconds),
        "p50_ms": round(percentile(milliseconds, 50), 1),
        "p99_ms": round(percentile(milliseconds, 99), 1),
        "max_ms": round(max(milliseconds), 1),
    }
