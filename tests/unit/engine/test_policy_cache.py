"""The policies as last seen: which is in force for a node, and whether an event changes that."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from gpuid_operator.api.policy import Policy, PolicyStatus
from gpuid_operator.engine.fleet import Fleet
from gpuid_operator.engine.held import Held, Inventories
from gpuid_operator.kube.nodes import NodeFacts
from tests.support.engines import TARGET, builtin
from tests.support.kube import FakeKube
from tests.support.objects import policy_path, put_policy

GOLD = {"matchLabels": {"tier": "gold"}}


@pytest.fixture
async def fleet() -> Fleet:
    """Two nodes: n1 of the tier gold, n2 of none."""
    fleet = Fleet(targets=[TARGET], builtin=builtin())
    for name, labels in (("n1", {"tier": "gold"}), ("n2", {})):
        fleet.put_node(NodeFacts(name, f"uid-{name}", None, None, "1", labels, 8))
    return fleet


def policy(kube: FakeKube, name: str, **spec: Any) -> Policy:
    return Policy.from_object(put_policy(kube, name, **spec))


def put(fleet: Fleet, policy: Policy) -> bool:
    return fleet.put_policy(policy.name, policy)


def held(name: str, *, policy: str = "", spec: dict[str, Any] | None = None) -> Held:
    cache = Inventories()
    meta = {"name": name, "uid": "u", "resourceVersion": "1"}
    cache.put_object({"metadata": meta, "spec": spec or {}, "status": {"policy": policy}})
    found = cache.get(name)
    assert found is not None
    return found


def test_without_a_policy_the_built_in_one_is_in_force(fleet: Fleet) -> None:
    force = fleet.force("n1", None)
    assert (force.policy, force.suspended, force.node_labels) == ("", False, True)
    assert force.builtin_sinks == {"stdout"}


def test_the_highest_priority_that_matches_rules(kube: FakeKube, fleet: Fleet) -> None:
    put(fleet, policy(kube, "all", priority=1))
    put(fleet, policy(kube, "gold", priority=2, nodeSelector=GOLD))
    put(fleet, policy(kube, "none", priority=3, nodeSelector={"matchLabels": {"tier": "tin"}}))
    assert fleet.force("n1", None).policy == "gold"
    assert fleet.force("n2", None).policy == "all"
    assert [one.name for one in fleet.ruling("n1")] == ["gold"]
    assert [one.name for one in fleet.policies] == ["none", "gold", "all"]


def test_of_equal_policies_the_oldest_rules(kube: FakeKube, fleet: Fleet) -> None:
    put(fleet, policy(kube, "a"))
    put(fleet, policy(kube, "b").model_copy(update={"created": "2020-01-01T00:00:00Z"}))
    assert [one.name for one in fleet.ruling("n1")] == ["b", "a"]
    assert fleet.force("n1", None).policy == "b"


def test_a_nodes_own_spec_comes_on_top(kube: FakeKube, fleet: Fleet) -> None:
    put(fleet, policy(kube, "all", readInterval="1h"))
    known = held("n1", spec={"suspend": True})
    force = fleet.force("n1", known)
    assert (force.policy, force.suspended) == ("all", True)
    assert force.read_interval == timedelta(hours=1)
    assert not fleet.force("n2", held("n2")).suspended


def test_a_node_that_is_gone_stays_under_its_last_policy(kube: FakeKube, fleet: Fleet) -> None:
    put(fleet, policy(kube, "gold", nodeSelector=GOLD, retention="1h"))
    fleet.forget_node("n1")
    assert fleet.force("n1", held("n1", policy="gold")).retention == timedelta(hours=1)
    assert fleet.force("n1", held("n1", policy="deleted")).policy == ""
    assert fleet.force("n1", held("n1")).policy == ""
    assert fleet.force("n1", None).policy == ""
    assert fleet.ruling("n1") == []


def test_what_is_in_force_follows_a_change_of_the_policy(kube: FakeKube, fleet: Fleet) -> None:
    put(fleet, policy(kube, "all", suspend=False))
    before = fleet.force("n1", None)
    assert fleet.force("n2", None) is before
    put(fleet, policy(kube, "all", suspend=True))
    assert fleet.force("n1", None).suspended
    fleet.remove_policy("all")
    assert fleet.force("n1", None).policy == ""


def test_the_operators_own_settings_hold_everywhere(kube: FakeKube) -> None:
    check = {"name": "a", "podSelector": {}, "command": "true"}
    for allowed in (False, True):
        fleet = Fleet(targets=[TARGET], builtin=builtin(), suspended=True, checks_allowed=allowed)
        put(fleet, policy(kube, "all", checks=[check]))
        force = fleet.force("n1", held("n1", policy="all"))
        assert force.suspended
        assert len(force.checks) == allowed


def test_only_another_spec_changes_what_is_in_force(kube: FakeKube, fleet: Fleet) -> None:
    assert put(fleet, policy(kube, "all", priority=1))
    kube.change(policy_path("all"), lambda body: body.update(status={"matchedNodes": 3}))
    later = Policy.from_object(kube.objects[policy_path("all")])
    assert not put(fleet, later)
    assert fleet.policies[0].status.matched_nodes == 3
    assert put(fleet, policy(kube, "all", priority=2))
    assert fleet.remove_policy("all")
    assert not fleet.remove_policy("all")


def test_a_policy_that_was_replaced_is_another(kube: FakeKube, fleet: Fleet) -> None:
    put(fleet, policy(kube, "all", priority=1))
    kube.remove(policy_path("all"))
    assert put(fleet, policy(kube, "all", priority=1))


def test_a_later_version_that_an_event_brought_outlives_a_list(
    kube: FakeKube, fleet: Fleet
) -> None:
    old = policy(kube, "all", priority=1)
    put(fleet, policy(kube, "all", priority=2))
    assert not fleet.put_policies([old])
    assert fleet.policies[0].spec.priority == 2
    assert not put(fleet, old)
    assert fleet.policies[0].spec.priority == 2


def test_a_policy_of_another_uid_replaces_one_of_any_version(kube: FakeKube, fleet: Fleet) -> None:
    put(fleet, policy(kube, "all", priority=2))
    other = Policy(name="all", uid="another", resource_version="1")
    assert fleet.put_policies([other])
    assert fleet.policies == [other]


def test_a_list_forgets_what_is_not_in_it(kube: FakeKube, fleet: Fleet) -> None:
    put(fleet, policy(kube, "a"))
    put(fleet, policy(kube, "b"))
    assert fleet.put_policies([Policy.from_object(kube.objects[policy_path("a")])])
    assert [one.name for one in fleet.policies] == ["a"]


def test_under_a_policy_that_cannot_be_understood_nobody_knows_what_is_in_force(
    kube: FakeKube, fleet: Fleet
) -> None:
    put(fleet, policy(kube, "gold"))
    known = held("n1", policy="gold")
    assert not fleet.in_doubt(known)
    assert fleet.put_policy("gold", None)
    assert fleet.policies == []
    assert fleet.in_doubt(known)
    assert not fleet.in_doubt(held("n2", policy="another"))
    assert not fleet.in_doubt(None)
    assert not fleet.put_policy("gold", None)  # it still cannot


@pytest.mark.parametrize("how", ["corrected", "deleted", "listed"])
def test_the_doubt_ends_when_the_policy_is_corrected_or_deleted(
    kube: FakeKube, fleet: Fleet, how: str
) -> None:
    fleet.put_policies([], illegible=["gold"])
    known = held("n1", policy="gold")
    assert fleet.in_doubt(known)
    match how:
        case "corrected":
            assert put(fleet, policy(kube, "gold"))
        case "deleted":
            assert fleet.remove_policy("gold")
        case _:
            assert fleet.put_policies([])
    assert not fleet.in_doubt(known)


def test_a_written_status_is_kept(kube: FakeKube, fleet: Fleet) -> None:
    known = policy(kube, "all")
    put(fleet, known)
    fleet.put_policy_status(known, PolicyStatus(matched_nodes=2), version="900")
    (kept,) = fleet.policies
    assert (kept.status.matched_nodes, kept.resource_version) == (2, "900")


def test_a_later_event_wins_over_a_written_status(kube: FakeKube, fleet: Fleet) -> None:
    known = policy(kube, "all", priority=1)
    put(fleet, known)
    later = policy(kube, "all", priority=2)
    put(fleet, later)
    fleet.put_policy_status(known, PolicyStatus(matched_nodes=2), version="900")
    assert fleet.policies == [later]
    fleet.remove_policy("all")
    fleet.put_policy_status(later, PolicyStatus(matched_nodes=2), version="901")
    assert fleet.policies == []
