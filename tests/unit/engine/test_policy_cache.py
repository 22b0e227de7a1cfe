"""The policy cache: which policy is in force for a node, and whether an event changes that."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from gpuid_operator.api.policy import Policy, PolicyStatus
from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.inventory_cache import InventoryCache
from gpuid_operator.kube.nodes import NodeFacts
from tests.support.engines import TARGET, builtin
from tests.support.kube import FakeKube
from tests.support.objects import policy_path, put_policy

GOLD = {"matchLabels": {"tier": "gold"}}


@pytest.fixture
async def state() -> ClusterState:
    """Two nodes: n1 of the tier gold, n2 of none."""
    state = ClusterState(targets=[TARGET], builtin=builtin())
    for name, labels in (("n1", {"tier": "gold"}), ("n2", {})):
        state.nodes.put(NodeFacts(name, f"uid-{name}", None, None, "1", labels, 8), requested=0.0)
    return state


def policy(kube: FakeKube, name: str, **spec: Any) -> Policy:
    return Policy.from_object(put_policy(kube, name, **spec))


def put(state: ClusterState, policy: Policy) -> bool:
    return state.policies.put(policy)


def cached(name: str, *, policy: str = "", spec: dict[str, Any] | None = None) -> CachedInventory:
    cache = InventoryCache()
    meta = {"name": name, "uid": "u", "resourceVersion": "1"}
    cache.put_object({"metadata": meta, "spec": spec or {}, "status": {"policy": policy}})
    found = cache.get(name)
    assert found is not None
    return found


def test_without_a_policy_the_built_in_policy_is_in_force(state: ClusterState) -> None:
    effective = state.effective_policy("n1", None)
    assert (effective.policy, effective.suspended, effective.node_labels) == ("", False, True)
    assert effective.builtin_sinks == {"stdout"}


def test_the_matching_policy_with_the_highest_priority_is_in_force(
    kube: FakeKube, state: ClusterState
) -> None:
    put(state, policy(kube, "all", priority=1))
    put(state, policy(kube, "gold", priority=2, nodeSelector=GOLD))
    put(state, policy(kube, "none", priority=3, nodeSelector={"matchLabels": {"tier": "tin"}}))
    assert state.effective_policy("n1", None).policy == "gold"
    assert state.effective_policy("n2", None).policy == "all"
    assert [one.name for one in state.matching("n1")] == ["gold"]
    assert [one.name for one in state.policies] == ["none", "gold", "all"]


def test_the_oldest_policy_wins_a_tie(kube: FakeKube, state: ClusterState) -> None:
    put(state, policy(kube, "a"))
    put(state, policy(kube, "b").model_copy(update={"created": "2020-01-01T00:00:00Z"}))
    assert [one.name for one in state.matching("n1")] == ["b", "a"]
    assert state.effective_policy("n1", None).policy == "b"


def test_the_spec_of_an_inventory_overrides_its_policy(kube: FakeKube, state: ClusterState) -> None:
    put(state, policy(kube, "all", readInterval="1h"))
    known = cached("n1", spec={"suspend": True})
    effective = state.effective_policy("n1", known)
    assert (effective.policy, effective.suspended) == ("all", True)
    assert effective.read_interval == timedelta(hours=1)
    assert not state.effective_policy("n2", cached("n2")).suspended


def test_a_node_that_is_gone_keeps_its_last_policy(kube: FakeKube, state: ClusterState) -> None:
    put(state, policy(kube, "gold", nodeSelector=GOLD, retention="1h"))
    state.forget_node("n1")
    assert state.effective_policy("n1", cached("n1", policy="gold")).retention == timedelta(hours=1)
    assert state.effective_policy("n1", cached("n1", policy="deleted")).policy == ""
    assert state.effective_policy("n1", cached("n1")).policy == ""
    assert state.effective_policy("n1", None).policy == ""
    assert state.matching("n1") == []


def test_a_changed_policy_is_in_force_at_once(kube: FakeKube, state: ClusterState) -> None:
    put(state, policy(kube, "all", suspend=False))
    before = state.effective_policy("n1", None)
    assert state.effective_policy("n2", None) is before
    put(state, policy(kube, "all", suspend=True))
    assert state.effective_policy("n1", None).suspended
    state.policies.remove("all")
    assert state.effective_policy("n1", None).policy == ""


def test_settings_of_the_operator_apply_to_every_node(kube: FakeKube) -> None:
    check = {"name": "a", "podSelector": {}, "command": "true"}
    for allowed in (False, True):
        state = ClusterState(
            targets=[TARGET], builtin=builtin(), suspended=True, checks_allowed=allowed
        )
        put(state, policy(kube, "all", checks=[check]))
        effective = state.effective_policy("n1", cached("n1", policy="all"))
        assert effective.suspended
        assert len(effective.checks) == allowed


def test_only_a_changed_spec_changes_what_is_in_force(kube: FakeKube, state: ClusterState) -> None:
    assert put(state, policy(kube, "all", priority=1))
    kube.change(policy_path("all"), lambda body: body.update(status={"matchedNodes": 3}))
    later = Policy.from_object(kube.objects[policy_path("all")])
    assert not put(state, later)
    assert next(iter(state.policies)).status.matched_nodes == 3
    assert put(state, policy(kube, "all", priority=2))
    assert state.policies.remove("all")
    assert not state.policies.remove("all")


def test_a_replaced_policy_changes_what_is_in_force(kube: FakeKube, state: ClusterState) -> None:
    put(state, policy(kube, "all", priority=1))
    kube.remove(policy_path("all"))
    assert put(state, policy(kube, "all", priority=1))


def test_a_list_does_not_replace_a_later_version(kube: FakeKube, state: ClusterState) -> None:
    old = policy(kube, "all", priority=1)
    put(state, policy(kube, "all", priority=2))
    assert not state.policies.put_all([old])
    assert next(iter(state.policies)).spec.priority == 2
    assert not put(state, old)
    assert next(iter(state.policies)).spec.priority == 2


def test_another_uid_replaces_a_policy_at_any_version(kube: FakeKube, state: ClusterState) -> None:
    put(state, policy(kube, "all", priority=2))
    other = Policy(name="all", uid="another", resource_version="1")
    assert state.policies.put_all([other])
    assert list(state.policies) == [other]


def test_a_list_removes_policies_that_it_does_not_have(kube: FakeKube, state: ClusterState) -> None:
    put(state, policy(kube, "a"))
    put(state, policy(kube, "b"))
    assert state.policies.put_all([Policy.from_object(kube.objects[policy_path("a")])])
    assert [one.name for one in state.policies] == ["a"]


def test_nodes_whose_policy_cannot_be_parsed_are_skipped(
    kube: FakeKube, state: ClusterState
) -> None:
    put(state, policy(kube, "gold"))
    known = cached("n1", policy="gold")
    assert not state.policies.is_unreadable(known.policy)
    assert state.policies.put(Policy(name="gold", fault="spec: invalid"))
    assert list(state.policies) == []
    assert state.policies.is_unreadable(known.policy)
    assert not state.policies.is_unreadable("another")
    assert not state.policies.put(Policy(name="gold", fault="spec: invalid"))  # nothing has changed


@pytest.mark.parametrize("how", ["corrected", "deleted", "listed"])
def test_nodes_are_not_skipped_once_the_policy_is_corrected_or_deleted(
    kube: FakeKube, state: ClusterState, how: str
) -> None:
    state.policies.put_all([Policy(name="gold", fault="spec: invalid")])
    known = cached("n1", policy="gold")
    assert state.policies.is_unreadable(known.policy)
    match how:
        case "corrected":
            assert put(state, policy(kube, "gold"))
        case "deleted":
            assert state.policies.remove("gold")
        case _:
            assert state.policies.put_all([])
    assert not state.policies.is_unreadable(known.policy)


@pytest.fixture
def objects(kube: FakeKube) -> list[dict[str, Any]]:
    """Two policies as the API server returns them; `later` cannot be parsed."""
    return [put_policy(kube, "all"), put_policy(kube, "later", nodeSelector="FromTheFuture")]


def test_objects_that_cannot_be_parsed_are_logged_and_known_by_name(
    state: ClusterState, objects: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    assert state.policies.take_all(objects)
    assert [one.name for one in state.policies] == ["all"]
    assert state.policies.is_unreadable("later")
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_events_store_and_remove_policies(
    state: ClusterState, objects: list[dict[str, Any]]
) -> None:
    for body in objects:
        assert state.policies.take(body, deleted=False)
    assert len(state.policies) == 1
    assert state.policies.is_unreadable("later")
    for body in objects:
        assert state.policies.take(body, deleted=True)
    assert len(state.policies) == 0
    assert not state.policies.is_unreadable("later")


def test_a_written_status_is_stored(kube: FakeKube, state: ClusterState) -> None:
    known = policy(kube, "all")
    put(state, known)
    state.policies.put_status(known, PolicyStatus(matched_nodes=2), version="900")
    (kept,) = state.policies
    assert (kept.status.matched_nodes, kept.resource_version) == (2, "900")


def test_a_written_status_does_not_replace_a_later_version(
    kube: FakeKube, state: ClusterState
) -> None:
    known = policy(kube, "all", priority=1)
    put(state, known)
    later = policy(kube, "all", priority=2)
    put(state, later)
    state.policies.put_status(known, PolicyStatus(matched_nodes=2), version="900")
    assert list(state.policies) == [later]
    state.policies.remove("all")
    state.policies.put_status(later, PolicyStatus(matched_nodes=2), version="901")
    assert list(state.policies) == []


def test_a_status_that_cannot_be_parsed_does_not_disable_the_policy(
    kube: FakeKube, state: ClusterState
) -> None:
    body = put_policy(kube, "all", priority=1)
    condition = {"type": "Ready", "status": "True", "reason": "InForce"}
    condition["lastTransitionTime"] = "0000-01-01T00:00:00Z"
    assert state.policies.take({**body, "status": {"conditions": [condition]}}, deleted=False)
    assert [(one.name, one.status) for one in state.policies] == [("all", PolicyStatus())]


def test_a_spec_that_is_edited_and_still_cannot_be_parsed_is_a_change(
    kube: FakeKube, state: ClusterState
) -> None:
    """Its status has to name the generation."""
    for spec in ("FromTheFuture", "AnotherFuture"):
        assert state.policies.take(put_policy(kube, "later", nodeSelector=spec), deleted=False)
    assert [one.generation for one in state.policies.unreadable] == [2]
