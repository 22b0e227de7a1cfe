"""The pod that a check runs in, and the pods that are kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpuid_operator.engine.checks.pod_list import list_check_pods
from gpuid_operator.engine.checks.pods import CheckPods
from gpuid_operator.engine.core.pod_selector import PodSelector
from tests.support.checks import SOURCE, job
from tests.support.kube import FakeKube
from tests.support.objects import pod_path, put_pod

OTHER = PodSelector(SOURCE.namespace, "app=other")


@pytest.fixture
def pods() -> CheckPods:
    pods = CheckPods()
    pods.follow([job()])
    return pods


def test_a_ready_pod_is_found_and_reported_once(pods: CheckPods, kube: FakeKube) -> None:
    body = put_pod(kube, "n1")
    assert pods.put(SOURCE, body, deleted=False) == {"n1"}
    assert pods.put(SOURCE, body, deleted=False) == set()
    pod = pods.find(job(), "n1")
    assert pod is not None and pod.name == "plugin-n1"
    assert pods.nodes() == {"n1"}
    assert pods.versions(SOURCE) == {body["metadata"]["uid"]: body["metadata"]["resourceVersion"]}
    assert pods.find(job(), "n2") is None


def test_a_pod_that_is_not_ready_is_known_but_not_used(pods: CheckPods, kube: FakeKube) -> None:
    assert pods.put(SOURCE, put_pod(kube, "n1", ready=False), deleted=False) == {"n1"}
    assert pods.find(job(), "n1") is None
    assert pods.nodes() == {"n1"}


def test_the_ready_pod_that_started_last_is_used(pods: CheckPods, kube: FakeKube) -> None:
    times = {"old": "2026-06-07T09:00:00Z", "new": "2026-06-07T10:00:00Z"}
    for name, started in times.items():
        pods.put(SOURCE, put_pod(kube, "n1", name=name, started=started), deleted=False)
    later = put_pod(kube, "n1", name="later", started="2026-06-07T11:00:00Z", ready=False)
    pods.put(SOURCE, later, deleted=False)
    pod = pods.find(job(), "n1")
    assert pod is not None and pod.name == "new"


def test_a_deleted_or_finished_pod_is_forgotten(pods: CheckPods, kube: FakeKube) -> None:
    gone, over = put_pod(kube, "n1"), put_pod(kube, "n2")
    for body in (gone, over):
        pods.put(SOURCE, body, deleted=False)
    assert pods.put(SOURCE, gone, deleted=True) == {"n1"}
    assert pods.put(SOURCE, gone, deleted=True) == set()
    over["status"]["phase"] = "Failed"
    assert pods.put(SOURCE, over, deleted=False) == {"n2"}
    assert pods.nodes() == set() and pods.versions(SOURCE) == {}
    assert pods.find(job(), "n1") is None and pods.find(job(), "n2") is None


def test_the_other_pod_is_used_when_one_of_two_is_deleted(pods: CheckPods, kube: FakeKube) -> None:
    first, second = put_pod(kube, "n1", name="a"), put_pod(kube, "n1", name="b")
    for body in (first, second):
        pods.put(SOURCE, body, deleted=False)
    pods.put(SOURCE, second, deleted=True)
    pod = pods.find(job(), "n1")
    assert pod is not None and pod.name == "a"


def test_each_container_that_a_check_names_is_followed(kube: FakeKube) -> None:
    pods = CheckPods()
    pods.follow([job("a"), job("b", container="side")])
    body = put_pod(kube, "n1")
    body["spec"]["containers"].append({"name": "side"})
    running = {"running": {"startedAt": "2026-06-07T10:00:00Z"}}
    side = {"name": "side", "state": running, "ready": True, "containerID": "containerd://side"}
    body["status"]["containerStatuses"].append(side)
    assert pods.put(SOURCE, body, deleted=False) == {"n1"}
    found = pods.find(job("b", container="side"), "n1")
    assert found is not None and found.container == "side"
    assert pods.put(SOURCE, body, deleted=True) == {"n1"}
    assert pods.find(job("a"), "n1") is None and pods.find(job(container="side"), "n1") is None


def test_a_new_selector_or_container_needs_a_list(kube: FakeKube) -> None:
    pods = CheckPods()
    assert pods.follow([job()])
    assert not pods.follow([job(), job("again")])
    assert pods.follow([job(), job("b", source=OTHER)])
    assert pods.sources == {SOURCE, OTHER}
    assert pods.follow([job(), job("b", source=OTHER, container="side")])
    assert not pods.follow([job()])


def test_pods_that_no_check_selects_are_forgotten(kube: FakeKube) -> None:
    pods = CheckPods()
    pods.follow([job(), job("b", source=OTHER)])
    pods.put(SOURCE, put_pod(kube, "n1"), deleted=False)
    pods.put(OTHER, put_pod(kube, "n2"), deleted=False)
    pods.follow([job("b", source=OTHER)])
    assert pods.nodes() == {"n2"}
    assert pods.find(job(), "n1") is None
    # Events of its pods may still arrive.
    assert pods.put(SOURCE, put_pod(kube, "n1"), deleted=False) == set()


async def test_a_late_page_of_a_list_overwrites_no_event(pods: CheckPods, kube: FakeKube) -> None:
    bodies = [put_pod(kube, f"n{number:03}") for number in range(260)]
    late = kube.fail("GET", "/pods$", until=asyncio.Event())
    second = kube.fail("GET", "/pods$", until=asyncio.Event())
    listing = asyncio.create_task(list_check_pods(kube, pods, SOURCE))
    assert late.until is not None and second.until is not None
    late.until.set()
    await second.met.wait()
    unready = put_pod(kube, "n258", ready=False)
    pods.put(SOURCE, unready, deleted=False)
    pods.put(SOURCE, bodies[259], deleted=False)
    pods.put(SOURCE, bodies[259], deleted=True)
    added = put_pod(kube, "n260")
    pods.put(SOURCE, added, deleted=False)
    second.until.set()
    await listing
    assert pods.find(job(), "n257") is not None
    assert pods.find(job(), "n258") is None
    assert pods.nodes() == {f"n{number:03}" for number in range(261)} - {"n259"}
    # A later list still finds what no event reported.
    kube.remove(pod_path("plugin-n260"))
    kube.remove(pod_path("plugin-n259"))
    await list_check_pods(kube, pods, SOURCE)
    assert pods.nodes() == {f"n{number:03}" for number in range(259)}


def test_the_digest_identifies_the_command_and_the_place() -> None:
    one = job()
    same = replace(one, interval=one.interval * 2, timeout=one.timeout * 2, restart=True)
    assert same.digest == one.digest
    others = [replace(one, command="x"), replace(one, container=None), replace(one, source=OTHER)]
    assert len({one.digest, *(other.digest for other in others)}) == 4
