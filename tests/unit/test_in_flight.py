"""How many calls are on their way at once."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from gpuid_operator.kube.in_flight import InFlight


class Calls:
    """Calls that end when told, and which of them have begun."""

    def __init__(self, in_flight: InFlight, *, many: int, leave: bool = False) -> None:
        self.begun: list[int] = []
        self.all_begun = asyncio.Event()
        self.ends = [asyncio.Event() for _ in range(many)]
        self._leave = leave
        self.tasks = [asyncio.create_task(self._call(in_flight, one)) for one in range(many)]

    async def _call(self, in_flight: InFlight, number: int) -> None:
        async with in_flight.place() as place:
            self.begun.append(number)
            if len(self.begun) == len(self.ends):
                self.all_begun.set()
            if self._leave:
                place.give_back()
                place.give_back()  # once is enough
            await self.ends[number].wait()

    async def settle(self) -> list[int]:
        """Those that have begun once nothing more happens."""
        while True:
            before = len(self.begun)
            for _ in range(3):
                await asyncio.sleep(0)
            if len(self.begun) == before:
                return self.begun

    async def end(self) -> None:
        for event in self.ends:
            event.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self.tasks)


async def test_the_others_wait_in_order_for_a_place() -> None:
    calls = Calls(InFlight(places=2, longest=3600), many=5)
    assert await calls.settle() == [0, 1]
    calls.ends[1].set()
    assert await calls.settle() == [0, 1, 2]
    calls.ends[0].set()
    calls.ends[2].set()
    assert await calls.settle() == [0, 1, 2, 3, 4]
    await calls.end()


async def test_a_call_that_gave_its_place_back_is_not_counted() -> None:
    in_flight = InFlight(places=2, longest=3600)
    calls = Calls(in_flight, many=5, leave=True)
    assert await calls.settle() == [0, 1, 2, 3, 4]
    await calls.end()
    # Each gave back one place and no more.
    later = Calls(in_flight, many=3)
    assert await later.settle() == [0, 1]
    await later.end()


async def test_calls_that_take_long_do_not_keep_the_others_waiting() -> None:
    in_flight = InFlight(places=2, longest=0.01)
    calls = Calls(in_flight, many=5)
    async with asyncio.timeout(30):
        await calls.all_begun.wait()
    assert not any(task.done() for task in calls.tasks)
    await calls.end()
    later = Calls(InFlight(places=2, longest=3600), many=3)
    assert await later.settle() == [0, 1]
    await later.end()


@pytest.mark.parametrize("waits", [0, 1])
async def test_a_cancelled_call_leaves_no_place_taken(waits: int) -> None:
    calls = Calls(InFlight(places=1, longest=3600), many=3)
    assert await calls.settle() == [0]
    calls.tasks[waits].cancel()
    await calls.settle()
    calls.ends[0].set()
    assert (await calls.settle())[-1] == (1 if waits == 0 else 2)
    await calls.end()
