"""The state of the cluster: what follows from several caches, and views of nodes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpuid_operator.api.policy import Policy
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.node_view import NodeView, SkipReason
from gpuid_operator.engine.state.nodes import node_info
from gpuid_operator.kube.nodes import NodeFacts
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.presets import expand
from tests.support.engines import TARGET, builtin
from tests.support.kube import FakeKube
from tests.support.objects import (
    CONTAINER,
    UNKNOWN_SINK,
    put_inventory,
    put_node,
    put_pod,
    put_policy,
)


@pytest.fixture
def state() -> ClusterState:
    return ClusterState(targets=[TARGET], builtin=builtin())


def pod(kube: FakeKube, node: str = "n1", **fields: Any) -> TargetPod:
    found = TargetPod.from_pod(put_pod(kube, node, **fields), container=CONTAINER)
    assert found is not None
    return found


def facts(kube: FakeKube, name: str = "n1", **fields: Any) -> NodeFacts:
    return NodeFacts.from_node(put_node(kube, name, **fields))


def view(kube: FakeKube, state: ClusterState, **inventory: Any) -> NodeView:
    """A view of n1, with this inventory."""
    state.inventories.put_object(put_inventory(kube, "n1", **inventory))
    return state.view("n1")


def test_a_view_of_an_unknown_node_has_only_the_built_in_policy(state: ClusterState) -> None:
    unknown = state.view("n1")
    assert (unknown.inventory, unknown.node, unknown.target, unknown.skip) == (None,) * 4
    assert (unknown.suspended, unknown.departed, unknown.open_request) == (False, False, None)
    assert unknown.foreign_checks == frozenset()
    context = unknown.status_context
    assert (context.policy, context.generation, context.checks) == ("", 1, frozenset())


async def test_a_view_has_what_all_caches_know(kube: FakeKube, state: ClusterState) -> None:
    state.nodes.put(facts(kube), requested=0.0)
    state.pods.put(0, "p1", pod(kube), version="1")
    state.policies.put(Policy.from_object(put_policy(kube, "all", suspend=True)))
    known = view(kube, state, status={"state": "Departed"})
    assert known.inventory is state.inventories.get("n1")
    assert known.node is state.nodes["n1"]
    assert known.target == (TARGET, pod(kube))
    assert (known.suspended, known.departed, known.skip) == (True, True, None)
    assert (known.status_context.policy, known.status_context.suspended) == ("all", True)


def test_a_view_does_not_change(kube: FakeKube, state: ClusterState) -> None:
    earlier = view(kube, state, status={"state": "Present"})
    later = view(kube, state, status={"state": "Departed"})
    assert (earlier.departed, later.departed) == (False, True)


def test_the_context_of_a_status_has_generation_and_foreign_checks(
    kube: FakeKube, state: ClusterState
) -> None:
    put_inventory(kube, "n1")
    body = put_inventory(
        kube, "n1", spec={"suspend": True}, status={"checks": [{"name": "a", "passed": True}]}
    )
    fields: dict[str, Any] = {"f:status": {"f:checks": {'k:{"name":"a"}': {"f:passed": {}}}}}
    body["metadata"]["managedFields"] = [{"manager": "runner", "fieldsV1": fields}]
    state.inventories.put_object(body)
    known = state.view("n1")
    assert known.foreign_checks == {"a"}
    context = known.status_context
    assert (context.generation, context.suspended, context.checks) == (2, True, frozenset({"a"}))


@pytest.mark.parametrize(
    ("requested", "handled", "is_open"),
    [
        pytest.param(None, None, None, id="no request"),
        pytest.param("r1", None, "r1", id="first request"),
        pytest.param("r1", "r1", None, id="request is handled"),
        pytest.param("r2", "r1", "r2", id="next request"),
        pytest.param(None, "r1", None, id="annotation was removed"),
    ],
)
def test_a_request_is_open_until_a_read_answers_it(
    kube: FakeKube,
    state: ClusterState,
    requested: str | None,
    handled: str | None,
    is_open: str | None,
) -> None:
    annotations = {"gpuid.github.com/requestedAt": requested} if requested else {}
    status = {"lastHandledRequest": handled} if handled else {}
    assert view(kube, state, status=status, annotations=annotations).open_request == is_open


def test_what_is_in_force_for_a_node(kube: FakeKube, state: ClusterState) -> None:
    assert state.inventory_with_policy("n1") is None
    known = view(kube, state, spec={"sinks": [{"name": "mine", "stdout": {}}]})
    assert known.inventory is not None
    assert state.inventory_with_policy("n1") == (known.inventory, known.policy)
    assert view(kube, state, spec={"sinks": [UNKNOWN_SINK]}).skip is not None
    assert state.inventory_with_policy("n1") is None


def test_a_node_whose_inventory_cannot_be_parsed_is_skipped(
    kube: FakeKube, state: ClusterState
) -> None:
    with pytest.raises(ValueError, match="state"):
        view(kube, state, status={"state": "FromTheFuture"})
    assert state.view("n1").skip is SkipReason.INVALID_INVENTORY


def test_a_node_whose_policy_cannot_be_parsed_is_skipped(
    kube: FakeKube, state: ClusterState
) -> None:
    state.policies.put(Policy(name="later", fault="spec: invalid"))
    assert view(kube, state, status={"policy": "later"}).skip is SkipReason.UNREADABLE_POLICY
    assert view(kube, state, status={"policy": "other"}).skip is None


async def test_a_node_with_a_sink_of_an_unknown_type_is_skipped(
    kube: FakeKube, state: ClusterState
) -> None:
    """Whether the policy has it or the inventory. A sink of the inventory can replace it."""
    state.policies.put(Policy.from_object(put_policy(kube, "a", sinks=[UNKNOWN_SINK])))
    named = {"policy": "a"}
    assert view(kube, state, status=named).skip is SkipReason.UNKNOWN_SINK
    known = {"sinks": [{"name": UNKNOWN_SINK["name"], "stdout": {}}]}
    assert view(kube, state, status=named, spec=known).skip is None
    assert view(kube, state, spec={"sinks": [UNKNOWN_SINK]}).skip is SkipReason.UNKNOWN_SINK
    assert state.skip_reason("n1") is SkipReason.UNKNOWN_SINK
    assert view(kube, state, spec={}).skip is None
    state.nodes.put(facts(kube), requested=0.0)
    assert state.view("n1").skip is SkipReason.UNKNOWN_SINK  # the policy selects its labels


async def test_a_gpu_node_has_a_target_pod_or_gpu_capacity(
    kube: FakeKube, state: ClusterState
) -> None:
    state.pods.put(0, "p1", pod(kube, "with-pod"), version="1")
    for name, gpus in (("with-gpus", 8), ("with-none", 0), ("plain", None)):
        state.nodes.put(facts(kube, name, gpus=gpus), requested=0.0)
    names = ("with-pod", "with-gpus", "with-none", "plain", "unknown")
    assert [name for name in names if state.is_gpu_node(name)] == ["with-pod", "with-gpus"]


async def test_a_node_is_forgotten_once_it_has_no_pod_and_no_node_object(
    kube: FakeKube, state: ClusterState
) -> None:
    await asyncio.sleep(10)
    state.nodes.put(facts(kube), requested=0.0)
    state.pods.put(0, "p1", pod(kube), version="1")
    state.forget_node("n1")
    assert "n1" not in state.nodes
    assert state.pods.changed("n1") == 10.0
    state.pods.put(0, "p1", None, version="1")
    state.forget_node("n1")
    assert state.pods.changed("n1") == 0.0


async def test_facts_are_as_old_as_their_request_and_older_ones_replace_none(
    kube: FakeKube, state: ClusterState
) -> None:
    state.nodes.put(facts(kube), requested=7.0)
    state.nodes.put(facts(kube, gpus=8), requested=6.0)
    assert state.nodes["n1"].fetched == 7.0
    assert state.nodes["n1"].facts.gpu_capacity == 2
    state.nodes.put(facts(kube, gpus=4), requested=8.0)
    assert state.nodes["n1"].fetched == 8.0
    assert state.nodes["n1"].facts.gpu_capacity == 4


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


async def test_nodes_are_listed_until_they_are_removed(kube: FakeKube, state: ClusterState) -> None:
    for name in ("n1", "n2"):
        state.nodes.put(facts(kube, name), requested=0.0)
    assert (list(state.nodes), len(state.nodes)) == (["n1", "n2"], 2)
    state.nodes.remove("n1")
    assert [name for name, _ in state.nodes.items()] == ["n2"]


async def test_the_pod_of_a_preset_alone_makes_no_gpu_node(kube: FakeKube) -> None:
    """QUARANTINE_MAX_NODES is a share of the GPU nodes."""
    state = ClusterState(targets=[TARGET, *expand("static-manifest")], builtin=builtin())
    for number, name in enumerate(("own", "preset", "capacity")):
        state.nodes.put(facts(kube, name, gpus=8 if name == "capacity" else None), requested=0.0)
        target = 0 if name == "own" else 1
        state.pods.put(target, name, pod(kube, name), version=str(number + 1))
    assert [state.is_gpu_node(name) for name in ("own", "preset", "capacity")] == [
        True,
        False,
        True,
    ]
    assert state.gpu_node_count() == 2
    state.inventories.put_object(put_inventory(kube, "preset"))
    assert state.gpu_node_count() == 3
