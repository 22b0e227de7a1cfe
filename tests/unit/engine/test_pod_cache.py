"""The pod cache: which container a node is read in, and which nodes a changed pod concerns."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.state.pods import PodCache
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.target import Target
from tests.support.engines import SOURCE, TARGET
from tests.support.kube import FakeKube
from tests.support.objects import CONTAINER, NAMESPACE, put_pod

SECOND = Target(namespace="other", selector="app=second", container=None)


@pytest.fixture
def pods() -> PodCache:
    return PodCache([TARGET, SECOND])


def pod(kube: FakeKube, node: str = "n1", **fields: Any) -> TargetPod:
    found = TargetPod.from_pod(put_pod(kube, node, **fields), container=CONTAINER)
    assert found is not None
    return found


_VERSIONS = itertools.count(100)


def put(pods: PodCache, target: int, uid: str, found: TargetPod | None) -> set[str]:
    """Store a state that is later than all before it."""
    return pods.put(target, uid, found, version=str(next(_VERSIONS)))


def read_in(pods: PodCache, node: str = "n1") -> str | None:
    found = pods.find(node)
    return found[1].name if found else None


async def test_a_node_without_a_pod_has_no_target(pods: PodCache) -> None:
    assert pods.find("n1") is None
    assert pods.waiting("n1") is None
    assert pods.changed("n1") == 0.0


async def test_the_target_of_a_node_is_its_running_pod(kube: FakeKube, pods: PodCache) -> None:
    running = pod(kube)
    assert put(pods, 0, "p1", running) == {"n1"}
    assert pods.find("n1") == (TARGET, running)


async def test_a_pod_whose_container_does_not_run_is_waiting(
    kube: FakeKube, pods: PodCache
) -> None:
    pulling = pod(kube, running=False)
    put(pods, 0, "p1", pulling)
    assert pods.find("n1") is None
    assert pods.waiting("n1") == pulling


async def test_the_first_target_with_a_running_pod_is_preferred(
    kube: FakeKube, pods: PodCache
) -> None:
    put(pods, 1, "p2", pod(kube, name="second", namespace="other"))
    assert pods.find("n1") == (SECOND, pod(kube, name="second", namespace="other"))
    put(pods, 0, "p1", pod(kube, name="first", ready=False))
    # It takes over when it is ready.
    assert read_in(pods) == "second"
    put(pods, 0, "p1", pod(kube, name="first"))
    assert read_in(pods) == "first"
    put(pods, 0, "p1", pod(kube, name="first", running=False))
    assert read_in(pods) == "second"


@pytest.mark.parametrize("order", [1, -1])
async def test_a_ready_pod_is_preferred_and_then_the_one_that_started_last(
    kube: FakeKube, pods: PodCache, order: int
) -> None:
    ready = [
        pod(kube, name="older", started="2026-06-07T10:00:00Z"),
        pod(kube, name="newer", started="2026-06-07T11:00:00Z"),
        pod(kube, name="unready", started="2026-06-07T12:00:00Z", ready=False),
    ]
    for found in ready[::order]:
        put(pods, 0, found.name, found)
    assert read_in(pods) == "newer"
    put(pods, 0, "newer", None)
    assert read_in(pods) == "older"
    put(pods, 0, "older", None)
    assert read_in(pods) == "unready"


async def test_a_pod_that_did_not_change_concerns_no_node(kube: FakeKube, pods: PodCache) -> None:
    put(pods, 0, "p1", pod(kube))
    assert put(pods, 0, "p1", pod(kube)) == set()
    assert put(pods, 0, "p1", pod(kube, number=2)) == {"n1"}
    assert put(pods, 0, "unknown", None) == set()


async def test_a_pod_that_moves_concerns_both_nodes(kube: FakeKube, pods: PodCache) -> None:
    put(pods, 0, "p1", pod(kube, "n1", name="p"))
    assert put(pods, 0, "p1", pod(kube, "n2", name="p")) == {"n1", "n2"}
    assert pods.nodes() == {"n2"}
    assert pods.find("n1") is None
    assert read_in(pods, "n2") == "p"


async def test_a_node_is_dropped_with_its_last_pod(kube: FakeKube, pods: PodCache) -> None:
    put(pods, 0, "p1", pod(kube, name="a"))
    put(pods, 1, "p2", pod(kube, name="b"))
    assert put(pods, 0, "p1", None) == {"n1"}
    assert pods.nodes() == {"n1"}
    assert put(pods, 1, "p2", None) == {"n1"}
    assert pods.nodes() == set()


async def test_the_time_of_the_last_change_is_kept(kube: FakeKube, pods: PodCache) -> None:
    await asyncio.sleep(10)
    put(pods, 0, "p1", pod(kube))
    await asyncio.sleep(10)
    put(pods, 0, "p1", pod(kube))
    assert pods.changed("n1") == 10.0
    put(pods, 0, "p1", None)
    assert pods.changed("n1") == 20.0


async def test_the_versions_of_a_target_are_those_of_its_pods(
    kube: FakeKube, pods: PodCache
) -> None:
    put(pods, 0, "p1", pod(kube, "n1"))
    put(pods, 0, "p2", pod(kube, "n2"))
    put(pods, 1, "p3", pod(kube, "n2"))
    pods.put(1, "p4", pod(kube, "n2"), version="7")
    assert pods.versions(0).keys() == {"p1", "p2"}
    assert pods.versions(1).keys() == {"p3", "p4"}
    assert pods.versions(1)["p4"] == "7"


class TestOrder:
    """Pages of a list and events do not arrive in the order of the states that they show."""

    async def test_an_earlier_state_is_ignored(self, kube: FakeKube, pods: PodCache) -> None:
        pods.put(0, "p1", pod(kube), version="20")
        assert pods.put(0, "p1", pod(kube, running=False), version="9") == set()
        assert pods.put(0, "p1", None, version="19") == set()
        assert read_in(pods) == "plugin-n1"
        assert pods.versions(0) == {"p1": "20"}

    async def test_a_list_does_not_bring_back_a_pod_that_was_deleted_meanwhile(
        self, kube: FakeKube, pods: PodCache
    ) -> None:
        pods.put(0, "p1", pod(kube), version="20")
        with pods.listing():
            with pods.listing():
                pods.put(0, "p1", None, version="30")
                assert pods.put(0, "p1", pod(kube), version="20") == set()
            # The first list is still under way.
            assert pods.put(0, "p1", pod(kube), version="30") == set()
            assert pods.find("n1") is None
            # The pod lost the label of the selector and has it again.
            assert pods.put(0, "p1", pod(kube), version="40") == {"n1"}

    async def test_deletions_are_forgotten_with_the_end_of_the_list(
        self, kube: FakeKube, pods: PodCache
    ) -> None:
        with pods.listing():
            pods.put(0, "p1", None, version="30")
        assert pods.put(0, "p1", pod(kube), version="20") == {"n1"}

    async def test_only_a_pod_that_has_not_changed_since_is_removed_as_unlisted(
        self, kube: FakeKube, pods: PodCache
    ) -> None:
        pods.put(0, "p1", pod(kube), version="20")
        before = pods.versions(0)
        pods.put(0, "p1", pod(kube), version="30")
        assert pods.remove_unlisted(0, "p1", before["p1"]) == set()
        assert pods.remove_unlisted(0, "p1", "30") == {"n1"}
        assert pods.remove_unlisted(0, "p1", "30") == set()
        assert pods.versions(0) == {}


def test_targets_can_share_a_selector() -> None:
    twin = Target(namespace=NAMESPACE, selector=TARGET.selector, container="another")
    pods = PodCache([TARGET, SECOND, twin])
    other = PodSelector("other", "app=second")
    assert pods.selectors == {SOURCE, other}
    assert pods.targets_of(SOURCE) == [0, 2]
    assert pods.targets_of(other) == [1]
    assert pods.targets_of(PodSelector("other", "app=third")) == []
