"""A resync lists the metadata of target pods, and fetches whole only those that changed."""

from __future__ import annotations

import asyncio

import pytest

from gpuid_operator.engine.core.pod_selector import merge
from gpuid_operator.engine.reconcile.pod_list import PodList
from gpuid_operator.kube.client import ONLY_METADATA_LIST
from gpuid_operator.kube.errors import ListExpired, ServerError
from gpuid_operator.plan.target import Target
from tests.support.kube import FakeKube, forbidden, server_error
from tests.support.objects import CONTAINER, LABEL, NAMESPACE, pod_path, put_pod
from tests.unit.engine.reading import ReadBench

OTHER = "other"
TARGETS = (
    Target(namespace=NAMESPACE, selector="=".join(LABEL), container=CONTAINER, preset="a"),
    Target(namespace=NAMESPACE, selector=f"{LABEL[0]}={OTHER}", container=OTHER, preset="b"),
)
NAMES = [f"n{number:03}" for number in range(300)]


class Bench(ReadBench):
    """A list of the pods of two targets, which one watch brings, and what it requested."""

    def __init__(self, kube: FakeKube) -> None:
        super().__init__(kube, targets=TARGETS)
        ((watch, members),) = merge(self.state.pods.selectors).items()
        self.list = PodList(kube, watch, members, pods=self.state.pods)

    @property
    def fetched(self) -> list[str]:
        """The names of the pods that were fetched one by one."""
        paths = [request.path for request in self.kube.asked("GET", "/pods/")]
        return [path.rpartition("/")[2] for path in paths]

    def container(self, node: str) -> str | None:
        """The ID of the container that the node is read in."""
        found = self.state.pods.find(node)
        return found[1].container_id if found else None


@pytest.fixture
async def bench(kube: FakeKube) -> Bench:
    """All pods are listed once: one per node, and on n000 one of the other target, too."""
    bench = Bench(kube)
    for name in NAMES:
        put_pod(kube, name)
    other = {LABEL[0]: OTHER}
    put_pod(kube, "n000", name="other-n000", container=OTHER, labels=other)
    # Selected by a target whose container it does not have.
    put_pod(kube, "n001", name="lacking", container="side", labels=other)
    assert await bench.list.run() == set(NAMES)
    assert bench.fetched == []
    kube.requests.clear()
    return bench


async def test_nothing_is_fetched_while_nothing_changes(bench: Bench) -> None:
    for _ in range(3):
        assert await bench.list.run() == set()
    assert bench.fetched == []
    assert {request.accept for request in bench.kube.requests} == {ONLY_METADATA_LIST}
    assert bench.container("n299") == "containerd://plugin-n299-1"


async def test_a_change_that_no_event_reported_is_found(bench: Bench) -> None:
    put_pod(bench.kube, "n007", number=2)
    assert await bench.list.run() == {"n007"}
    assert bench.fetched == ["plugin-n007"]
    assert bench.container("n007") == "containerd://plugin-n007-2"
    assert await bench.list.run() == set()
    assert bench.fetched == ["plugin-n007"]


async def test_a_pod_that_gets_the_container_of_the_target_is_found(bench: Bench) -> None:
    put_pod(bench.kube, "n001", name="lacking", container=OTHER, labels={LABEL[0]: OTHER})
    assert await bench.list.run() == {"n001"}
    assert bench.fetched == ["lacking"]


async def test_a_deletion_that_no_event_reported_is_found(bench: Bench) -> None:
    bench.kube.remove(pod_path("plugin-n007"))
    assert await bench.list.run() == {"n007"}
    assert bench.fetched == []
    assert "n007" not in bench.state.pods


async def test_a_pod_that_is_over_is_found(bench: Bench) -> None:
    path = pod_path("plugin-n007")
    bench.kube.change(path, lambda body: body["status"].update(phase="Succeeded"))
    assert await bench.list.run() == {"n007"}
    assert "n007" not in bench.state.pods
    assert await bench.list.run() == set()
    assert bench.fetched == ["plugin-n007"]


async def test_a_pod_of_the_same_name_is_another(bench: Bench) -> None:
    bench.kube.remove(pod_path("plugin-n007"))
    put_pod(bench.kube, "n008", name="plugin-n007")
    assert await bench.list.run() == {"n007", "n008"}
    assert "n007" not in bench.state.pods


@pytest.mark.parametrize("again", [False, True])
async def test_a_pod_that_goes_while_it_is_fetched_is_gone(bench: Bench, again: bool) -> None:
    """Another one may have its name by then."""

    def go() -> None:
        bench.kube.remove(pod_path("plugin-n007"))
        if again:
            put_pod(bench.kube, "n008", name="plugin-n007")

    put_pod(bench.kube, "n007", number=2)
    bench.kube.fail("GET", "/plugin-n007$", meanwhile=go)
    assert await bench.list.run() == ({"n007", "n008"} if again else {"n007"})
    assert "n007" not in bench.state.pods


async def test_a_state_that_an_event_brings_during_the_list_stays(bench: Bench) -> None:
    put_pod(bench.kube, "n007", number=2)
    bench.kube.fail("GET", "/pods$", after=True, delay=1.0)

    def event() -> None:
        bench.see_pod(put_pod(bench.kube, "n007", number=3))
        gone = bench.kube.objects[pod_path("plugin-n008")]
        bench.kube.remove(pod_path("plugin-n008"))
        bench.see_pod(gone, deleted=True)

    asyncio.get_running_loop().call_later(0.5, event)
    await bench.list.run()
    assert bench.container("n007") == "containerd://plugin-n007-3"
    assert "n008" not in bench.state.pods


async def test_a_fetch_that_fails_fails_the_list_and_is_made_up_for(bench: Bench) -> None:
    put_pod(bench.kube, "n007", number=2)
    bench.kube.fail("GET", "/plugin-n007$", server_error())
    with pytest.raises(ServerError):
        await bench.list.run()
    assert await bench.list.run() == {"n007"}


async def test_pods_are_listed_whole_where_only_lists_are_permitted(bench: Bench) -> None:
    put_pod(bench.kube, "n007", number=2)
    put_pod(bench.kube, "n008", number=2)
    bench.kube.fail("GET", "/pods/", forbidden(), times=99)
    assert await bench.list.run() == {"n007", "n008"}
    assert bench.container("n008") == "containerd://plugin-n008-2"


async def test_many_are_listed_whole(bench: Bench) -> None:
    for name in NAMES[:62]:
        put_pod(bench.kube, name, number=2)
    assert await bench.list.run() == set(NAMES[:62])
    assert bench.fetched == []
    assert len(bench.kube.requests) == 4 + 7
    assert await bench.list.run() == set()


async def test_an_old_list_shows_nothing(bench: Bench) -> None:
    put_pod(bench.kube, "n007", number=2)
    await bench.list.run()
    bench.kube.fail("GET", "/pods$", back=10)
    with pytest.raises(ListExpired):
        await bench.list.run()
    assert "n007" in bench.state.pods


async def test_pods_of_a_namespace_that_was_forgotten_come_back(bench: Bench) -> None:
    bench.state.pods.forget_namespace(NAMESPACE)
    assert await bench.list.run() == set(NAMES)
