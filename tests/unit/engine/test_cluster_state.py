"""Target pods and nodes as last seen: where a node is read, and which nodes have GPUs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.nodes import node_info
from gpuid_operator.kube.nodes import NodeFacts
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.target import Target
from tests.support.engines import SOURCE, TARGET, builtin
from tests.support.kube import FakeKube
from tests.support.objects import CONTAINER, NAMESPACE, put_node, put_pod

SECOND = Target(namespace="other", selector="app=second", container=None)


@pytest.fixture
def state() -> ClusterState:
    return ClusterState(targets=[TARGET, SECOND], builtin=builtin())


def pod(kube: FakeKube, node: str = "n1", **fields: Any) -> TargetPod:
    found = TargetPod.from_pod(put_pod(kube, node, **fields), container=CONTAINER)
    assert found is not None
    return found


def facts(kube: FakeKube, name: str = "n1", **fields: Any) -> NodeFacts:
    return NodeFacts.from_node(put_node(kube, name, **fields))


def read_in(state: ClusterState, node: str = "n1") -> str | None:
    found = state.pods.find(node)
    return found[1].name if found else None


async def test_a_node_without_a_pod_has_nowhere_to_be_read(state: ClusterState) -> None:
    assert state.pods.find("n1") is None
    assert state.pods.waiting("n1") is None
    assert state.pods.changed("n1") == 0.0


async def test_a_node_is_read_in_its_running_pod(kube: FakeKube, state: ClusterState) -> None:
    running = pod(kube)
    assert state.pods.put(0, "p1", running) == {"n1"}
    assert state.pods.find("n1") == (TARGET, running)


async def test_a_pod_whose_container_does_not_run_is_waited_for(
    kube: FakeKube, state: ClusterState
) -> None:
    pulling = pod(kube, running=False)
    state.pods.put(0, "p1", pulling)
    assert state.pods.find("n1") is None
    assert state.pods.waiting("n1") == pulling


async def test_the_first_target_with_a_running_pod_is_read(
    kube: FakeKube, state: ClusterState
) -> None:
    state.pods.put(1, "p2", pod(kube, name="second", namespace="other"))
    assert state.pods.find("n1") == (SECOND, pod(kube, name="second", namespace="other"))
    state.pods.put(0, "p1", pod(kube, name="first", ready=False))
    # Ready or not: the order of the targets decides first.
    assert read_in(state) == "first"
    state.pods.put(0, "p1", pod(kube, name="first", running=False))
    assert read_in(state) == "second"


@pytest.mark.parametrize("order", [1, -1])
async def test_of_one_targets_pods_the_ready_one_is_read_then_the_newest(
    kube: FakeKube, state: ClusterState, order: int
) -> None:
    ready = [
        pod(kube, name="older", started="2026-06-07T10:00:00Z"),
        pod(kube, name="newer", started="2026-06-07T11:00:00Z"),
        pod(kube, name="unready", started="2026-06-07T12:00:00Z", ready=False),
    ]
    for found in ready[::order]:
        state.pods.put(0, found.name, found)
    assert read_in(state) == "newer"
    state.pods.put(0, "newer", None)
    assert read_in(state) == "older"
    state.pods.put(0, "older", None)
    assert read_in(state) == "unready"


async def test_only_a_pod_that_changed_is_news(kube: FakeKube, state: ClusterState) -> None:
    state.pods.put(0, "p1", pod(kube))
    assert state.pods.put(0, "p1", pod(kube)) == set()
    assert state.pods.put(0, "p1", pod(kube, number=2)) == {"n1"}
    assert state.pods.put(0, "unknown", None) == set()


async def test_a_pod_that_moves_is_news_for_both_nodes(kube: FakeKube, state: ClusterState) -> None:
    state.pods.put(0, "p1", pod(kube, "n1", name="p"))
    assert state.pods.put(0, "p1", pod(kube, "n2", name="p")) == {"n1", "n2"}
    assert state.pods.nodes() == {"n2"}
    assert state.pods.find("n1") is None
    assert read_in(state, "n2") == "p"


async def test_a_node_whose_last_pod_is_gone_has_none(kube: FakeKube, state: ClusterState) -> None:
    state.pods.put(0, "p1", pod(kube, name="a"))
    state.pods.put(1, "p2", pod(kube, name="b"))
    assert state.pods.put(0, "p1", None) == {"n1"}
    assert state.pods.nodes() == {"n1"}
    assert state.pods.put(1, "p2", None) == {"n1"}
    assert state.pods.nodes() == set()


async def test_when_a_nodes_pods_changed_is_known(kube: FakeKube, state: ClusterState) -> None:
    await asyncio.sleep(10)
    state.pods.put(0, "p1", pod(kube))
    await asyncio.sleep(10)
    state.pods.put(0, "p1", pod(kube))
    assert state.pods.changed("n1") == 10.0
    state.pods.put(0, "p1", None)
    assert state.pods.changed("n1") == 20.0


async def test_when_a_nodes_pods_changed_is_forgotten_with_node_and_pods(
    kube: FakeKube, state: ClusterState
) -> None:
    await asyncio.sleep(10)
    state.nodes.put(facts(kube))
    state.pods.put(0, "p1", pod(kube))
    state.forget_node("n1")
    assert "n1" not in state.nodes
    assert state.pods.changed("n1") == 10.0
    state.pods.put(0, "p1", None)
    state.forget_node("n1")
    assert state.pods.changed("n1") == 0.0


async def test_pods_of_a_target_are_known_by_their_uids(
    kube: FakeKube, state: ClusterState
) -> None:
    state.pods.put(0, "p1", pod(kube, "n1"))
    state.pods.put(0, "p2", pod(kube, "n2"))
    state.pods.put(1, "p3", pod(kube, "n2"))
    assert state.pods.uids(0) == {"p1", "p2"}
    assert state.pods.uids(1) == {"p3"}


def test_targets_may_share_the_pods_that_they_read() -> None:
    twin = Target(namespace=NAMESPACE, selector=TARGET.selector, container="another")
    state = ClusterState(targets=[TARGET, SECOND, twin], builtin=builtin())
    other = PodSelector("other", "app=second")
    assert state.pods.selectors == {SOURCE, other}
    assert state.pods.targets_of(SOURCE) == [0, 2]
    assert state.pods.targets_of(other) == [1]
    assert state.pods.targets_of(PodSelector("other", "app=third")) == []


async def test_a_node_has_gpus_by_its_pods_or_by_its_capacity(
    kube: FakeKube, state: ClusterState
) -> None:
    state.pods.put(0, "p1", pod(kube, "with-pod"))
    for name, gpus in (("with-gpus", 8), ("with-none", 0), ("plain", None)):
        state.nodes.put(facts(kube, name, gpus=gpus))
    names = ("with-pod", "with-gpus", "with-none", "plain", "unknown")
    assert [name for name in names if state.is_gpu_node(name)] == ["with-pod", "with-gpus"]


async def test_facts_of_a_node_are_as_old_as_their_fetch(
    kube: FakeKube, state: ClusterState
) -> None:
    await asyncio.sleep(7)
    state.nodes.put(facts(kube))
    assert state.nodes["n1"].fetched == 7.0
    assert state.nodes["n1"].facts.gpu_capacity == 2


@pytest.mark.parametrize(
    ("provider", "machine"),
    [
        ("aws:///zone/i-0abc", "i-0abc"),
        ("gce://project/zone/vm/", "vm"),
        ("plain", "plain"),
        ("", "na"),
        (None, "na"),
    ],
)
def test_the_machine_is_the_last_part_of_the_provider_id(
    provider: str | None, machine: str
) -> None:
    node = NodeFacts("n1", "u1", provider, "b1", "5", {}, None)
    info = node_info(node)
    assert info.machine == machine
    assert (info.name, info.uid, info.provider_id, info.boot_id) == ("n1", "u1", provider, "b1")
