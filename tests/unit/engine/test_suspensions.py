"""Which nodes the policies suspend: also those whose labels are not known yet."""

from __future__ import annotations

import pytest

from gpuid_operator.engine.check_runner.suspensions import Suspensions
from gpuid_operator.kube.client import ONLY_METADATA_LIST
from gpuid_operator.kube.errors import KubeError
from tests.support.kube import FakeKube, server_error
from tests.support.objects import node_path, policy_path, put_node, put_policy

POOL = {"matchLabels": {"pool": "a"}}


@pytest.fixture
def nodes(kube: FakeKube) -> set[str]:
    put_node(kube, "n1", labels={"pool": "a"})
    put_node(kube, "n2")
    return {"n1", "n2"}


@pytest.fixture
def suspensions(kube: FakeKube, nodes: set[str]) -> Suspensions:
    return Suspensions(kube, nodes=lambda: nodes)


def cached(suspensions: Suspensions, *names: str) -> set[str]:
    return {name for name in names or ("n1", "n2") if suspensions.is_suspended(name)}


async def test_nodes_are_not_read_while_no_policy_suspends(
    kube: FakeKube, suspensions: Suspensions
) -> None:
    put_policy(kube, "p", nodeSelector=POOL)
    await suspensions.resync()
    suspensions.nodes_added()
    assert cached(suspensions) == set() and not suspensions.labels_needed.is_set()
    assert not kube.asked("GET", "/nodes")


async def test_a_policy_suspends_the_nodes_that_it_matches(
    kube: FakeKube, suspensions: Suspensions
) -> None:
    put_policy(kube, "p", nodeSelector=POOL, suspend=True)
    await suspensions.resync()
    assert cached(suspensions) == {"n1"}


async def test_only_the_metadata_of_nodes_is_listed(
    kube: FakeKube, suspensions: Suspensions
) -> None:
    put_policy(kube, "p", nodeSelector=POOL, suspend=True)
    await suspensions.resync()
    (request,) = kube.asked("GET", "/nodes")
    assert request.accept == ONLY_METADATA_LIST


async def test_a_policy_of_higher_priority_can_resume_nodes(
    kube: FakeKube, suspensions: Suspensions
) -> None:
    put_policy(kube, "all", suspend=True)
    put_policy(kube, "some", nodeSelector=POOL, suspend=False, priority=5)
    await suspensions.resync()
    assert cached(suspensions) == {"n2"}


async def test_all_nodes_are_suspended_until_their_labels_are_known(
    kube: FakeKube, suspensions: Suspensions
) -> None:
    await suspensions.resync()
    body = put_policy(kube, "p", nodeSelector=POOL, suspend=True)
    suspensions.policy_event(body, deleted=False)
    assert suspensions.labels_needed.is_set()
    assert cached(suspensions) == {"n1", "n2"}
    await suspensions.fetch_labels()
    assert cached(suspensions) == {"n1"}
    kube.remove(policy_path("p"))
    suspensions.policy_event(body, deleted=True)
    assert cached(suspensions) == set()


async def test_an_event_without_a_change_needs_no_labels(
    kube: FakeKube, suspensions: Suspensions
) -> None:
    body = put_policy(kube, "p", suspend=True)
    await suspensions.resync()
    suspensions.policy_event(body, deleted=False)
    assert not suspensions.labels_needed.is_set()


async def test_a_new_node_is_suspended_until_its_labels_are_fetched(
    kube: FakeKube, suspensions: Suspensions, nodes: set[str]
) -> None:
    put_policy(kube, "p", nodeSelector=POOL, suspend=True)
    await suspensions.resync()
    put_node(kube, "n3")
    nodes.add("n3")
    assert cached(suspensions, "n3") == {"n3"}
    suspensions.nodes_added()
    assert suspensions.labels_needed.is_set()
    await suspensions.fetch_labels()
    assert cached(suspensions, "n3") == set()
    assert len(kube.asked("GET", "/nodes$")) == 1
    assert len(kube.asked("GET", "/nodes/n3$")) == 1


async def test_a_node_that_is_gone_is_suspended(
    kube: FakeKube, suspensions: Suspensions, nodes: set[str]
) -> None:
    put_policy(kube, "p", nodeSelector=POOL, suspend=True)
    nodes.add("n3")
    await suspensions.resync()
    assert cached(suspensions, "n3") == {"n3"}
    # A resync forgets a node that was deleted.
    kube.remove(node_path("n2"))
    await suspensions.resync()
    assert cached(suspensions) == {"n1", "n2"}


async def test_a_resync_finds_changed_labels(kube: FakeKube, suspensions: Suspensions) -> None:
    put_policy(kube, "p", nodeSelector=POOL, suspend=True)
    await suspensions.resync()
    kube.change(node_path("n2"), lambda body: body["metadata"].update(labels={"pool": "a"}))
    await suspensions.fetch_labels()
    assert cached(suspensions) == {"n1"}
    await suspensions.resync()
    assert cached(suspensions) == {"n1", "n2"}


async def test_a_list_of_nodes_that_failed_is_retried(
    kube: FakeKube, suspensions: Suspensions
) -> None:
    put_policy(kube, "p", nodeSelector=POOL, suspend=True)
    kube.fail("GET", "/nodes$", server_error())
    with pytest.raises(KubeError):
        await suspensions.resync()
    assert cached(suspensions) == {"n1", "n2"}
    await suspensions.fetch_labels()
    assert cached(suspensions) == {"n1"}


async def test_an_unreadable_policy_suspends_nothing(
    kube: FakeKube, suspensions: Suspensions
) -> None:
    put_policy(kube, "p", suspend="perhaps")
    await suspensions.resync()
    assert cached(suspensions) == set()
