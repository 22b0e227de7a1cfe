"""Percentiles are samples, and of few samples the highest ones are the largest."""

from __future__ import annotations

import pytest

from tests.bench.stats import percentile, summary


@pytest.mark.parametrize(
    ("samples", "share", "expected"),
    [
        ([7.0], 50, 7.0),
        ([7.0], 99, 7.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([4.0, 3.0, 1.0, 2.0], 50, 2.0),
        ([float(number) for number in range(1, 101)], 99, 99.0),
        ([float(number) for number in range(1, 100)], 99, 99.0),
        ([float(number) for number in range(1, 201)], 99, 198.0),
        ([2.0, 1.0], 100, 2.0),
    ],
)
def test_a_percentile_is_the_smallest_sample_that_enough_do_not_exceed(
    samples: list[float], share: float, expected: float
) -> None:
    assert percentile(samples, share) == expected


@pytest.mark.parametrize(("samples", "share"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_there_is_none_without_samples_or_beyond_all(samples: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="no percentile"):
        percentile(samples, share)


def test_a_summary_is_in_milliseconds() -> None:
    assert summary([0.001, 0.002, 0.0305]) == {
        "samples": 3,
        "p50_ms": 2.0,
        "p99_ms": 30.5,
        "max_ms": 30.5,
    }
