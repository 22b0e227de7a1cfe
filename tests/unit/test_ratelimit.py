"""The token bucket, on a clock of its own."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuid_operator.kube.ratelimit import TokenBucket


class Clock:
    """Time that passes only when somebody sleeps, and notes who was let go when."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def bucket(self, *, qps: float, burst: int) -> TokenBucket:
        return TokenBucket(qps=qps, burst=burst, clock=self.time, sleep=self.sleep)


async def test_a_burst_passes_at_once_and_the_rest_at_the_rate() -> None:
    clock = Clock()
    bucket = clock.bucket(qps=10, burst=3)
    moments = []
    for _ in range(6):
        await bucket.acquire()
        moments.append(clock.now)
    assert moments == pytest.approx([100, 100, 100, 100.1, 100.2, 100.3])


async def test_the_burst_comes_back_with_time_but_never_more_than_it() -> None:
    clock = Clock()
    bucket = clock.bucket(qps=10, burst=3)
    for _ in range(3):
        await bucket.acquire()
    clock.now += 60
    before = clock.now
    for _ in range(4):
        await bucket.acquire()
    assert clock.now - before == pytest.approx(0.1)


@given(
    qps=st.floats(0.5, 1000),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=60),
)
def test_no_window_holds_more_than_the_burst_and_what_the_rate_adds(
    qps: float, burst: int, gaps: list[float]
) -> None:
    clock = Clock()
    bucket = clock.bucket(qps=qps, burst=burst)
    moments: list[float] = []

    async def ask() -> None:
        for gap in gaps:
            clock.now += gap
            await bucket.acquire()
            moments.append(clock.now)

    asyncio.run(ask())
    for first in range(len(moments)):
        for last in range(first, len(moments)):
            allowed = burst + qps * (moments[last] - moments[first])
            assert last - first + 1 <= allowed + 1e-6


async def test_turns_come_in_the_order_of_asking() -> None:
    bucket = TokenBucket(qps=2000, burst=1)
    served: list[int] = []

    async def ask(number: int) -> None:
        await bucket.acquire()
        served.append(number)

    await asyncio.gather(*(ask(number) for number in range(20)))
    assert served == list(range(20))


async def test_who_gives_up_gives_back_the_turn() -> None:
    waiting = asyncio.Event()

    async def forever(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    bucket = TokenBucket(qps=1, burst=1, clock=lambda: 100.0, sleep=forever)
    await bucket.acquire()
    task = asyncio.create_task(bucket.acquire())
    await waiting.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    bucket._sleep = note
    await bucket.acquire()
    assert waits == [pytest.approx(1.0)]
