"""Whatever happens to GPUs, nodes and the operator: only GPUs that were in two nodes at once are
ever called duplicates, and in the end all inventories and conditions are right."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gpuid_operator.plan.duplicates import WINDOW
from tests.support import clock
from tests.support.gpu_fleet import UUIDS, GPUFleet
from tests.support.kube import FakeKube

NODES = ("n0", "n1", "n2", "n3")
KINDS = ("move", "clone", "end clone", "fail", "work", "suspend", "resume", "depart", "restart")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 5),
        st.sampled_from(NODES),
        st.sampled_from((1.0, 20.0, 2 * WINDOW)),
    ),
    max_size=10,
)


class Story:
    """What happens to a fleet of six GPUs, and when which of them was in several nodes."""

    def __init__(self, fleet: GPUFleet) -> None:
        self.fleet = fleet
        self.suspended: set[str] = set()
        self.moved: dict[int, float] = {}
        self.doubled: dict[int, float] = {}
        """When each GPU was last in several nodes."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def count(self) -> Counter[int]:
        return Counter(gpu for gpus in self.fleet.gpus.values() for gpu in gpus)

    def note(self) -> None:
        self.doubled |= {gpu: self.now() for gpu, times in self.count().items() if times > 1}

    async def run(self, steps: list[tuple[str, int, str, float]]) -> None:
        for number, node in enumerate(NODES[:3]):
            self.fleet.add(node, 2 * number, 2 * number + 1)
        await self.fleet.start()
        await self.fleet.settled()
        for kind, gpu, node, pause in steps:
            self.note()
            await getattr(self, kind.replace(" ", "_"))(gpu, node)
            self.note()
            await asyncio.sleep(pause)
            self.check_events()
        self.note()
        self.fleet.failing.clear()
        for node in list(self.suspended & self.fleet.gpus.keys()):
            self.fleet.suspend(node, False)
        await self.fleet.settled()
        await asyncio.sleep(3 * WINDOW)
        self.check_events()
        self.check_end()
        await self.fleet.stop()

    # What happens

    async def move(self, gpu: int, node: str) -> None:
        """The GPU leaves its nodes and comes to this one. That takes a technician some time."""
        if self.now() - self.moved.get(gpu, -WINDOW) <= WINDOW:
            return
        self.moved[gpu] = self.now()
        doubled = self.count()[gpu] > 1
        for other, gpus in list(self.fleet.gpus.items()):
            self.fleet.has(other, *(one for one in gpus if one != gpu))
            if doubled and gpu in gpus:
                # No other inventory is about to list it, so that nobody would look.
                self.fleet.restart_container(other)
        await self.clone(gpu, node)

    async def clone(self, gpu: int, node: str) -> None:
        """The node lists the GPU, too."""
        if node not in self.fleet.gpus:
            self.fleet.add(node, gpu)
        else:
            self.fleet.has(node, *sorted({*self.fleet.gpus[node], gpu}))
            self.fleet.restart_container(node)

    async def end_clone(self, gpu: int, node: str) -> None:
        if self.count()[gpu] > 1 and gpu in self.fleet.gpus.get(node, ()):
            self.fleet.has(node, *(one for one in self.fleet.gpus[node] if one != gpu))
            self.fleet.restart_container(node)
            self.moved[gpu] = self.now()

    async def fail(self, gpu: int, node: str) -> None:
        self.fleet.failing.add(node)

    async def work(self, gpu: int, node: str) -> None:
        self.fleet.failing.discard(node)

    async def suspend(self, gpu: int, node: str) -> None:
        if self.fleet.status(node):
            self.suspended.add(node)
            self.fleet.suspend(node, True)

    async def resume(self, gpu: int, node: str) -> None:
        if node in self.suspended:
            self.suspended.remove(node)
            self.fleet.suspend(node, False)

    async def depart(self, gpu: int, node: str) -> None:
        if node in self.fleet.gpus and len(self.fleet.gpus) > 1:
            gone = set(self.fleet.gpus[node])
            self.fleet.remove(node)
            for other in self.fleet.gpus:
                if self.fleet.listed(other) & gone:
                    # Where it moved from, unless the inventory of the departed node said so before.
                    self.fleet.restart_container(other)

    async def restart(self, gpu: int, node: str) -> None:
        await self.fleet.restart()

    # What must hold

    def check_events(self) -> None:
        """A GPU that an Event calls a duplicate was in several nodes not long before."""
        for event in self.fleet.seen_elsewhere():
            named = [gpu for gpu, uuid in enumerate(UUIDS) if uuid in event.body["message"]]
            assert named
            for gpu in named:
                assert self.doubled.get(gpu, -1.0) >= 0.0

    def check_end(self) -> None:
        times = self.count()
        for node, gpus in self.fleet.gpus.items():
            assert self.fleet.listed(node) == set(gpus)
            others = {gpu for gpu in gpus if times[gpu] > 1}
            if others:
                assert self.fleet.is_unique(node) == "False"
                said = (self.fleet.unique(node) or ("", "", ""))[2]
                assert {gpu for gpu, uuid in enumerate(UUIDS) if uuid in said} == others
            else:
                assert self.fleet.is_unique(node) in (None, "True")
        assert self.fleet.metric() == sum(number > 1 for number in times.values())


@given(STEPS)
@settings(max_examples=30, deadline=None, phases=set(Phase) - {Phase.shrink, Phase.explain})
def test_only_real_duplicates_are_told(steps: list[tuple[str, int, str, float]]) -> None:
    async def story() -> None:
        await Story(GPUFleet(FakeKube())).run(steps)

    clock.run(story())
