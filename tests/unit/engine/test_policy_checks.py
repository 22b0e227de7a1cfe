"""The checks of policies: which pods are watched, and which nodes run them until when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.checks import SOURCE
from tests.support.engines import until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube, forbidden, server_error
from tests.support.objects import (
    inventory_path,
    policy_path,
    put_inventory,
    put_node,
    put_pod,
    put_policy,
)
from tests.support.policy_checks import PolicyBench, check, put_foreign, source


@pytest.fixture
async def bench(kube: FakeKube) -> AsyncIterator[PolicyBench]:
    for node in ("n1", "n2"):
        put_node(kube, node)
    bench = PolicyBench(kube)
    yield bench
    await bench.stop()


async def test_a_policy_s_checks_run_in_the_pods_that_they_select(
    kube: FakeKube, bench: PolicyBench
) -> None:
    for node in ("n1", "n2"):
        put_pod(kube, node)
    put_policy(kube, "p", checks=[check()])
    await bench.start()
    assert bench.checks.sources == {SOURCE} and bench.checks.sources_changed.is_set()
    await until(lambda: bench.result("n1") and bench.result("n2"))
    found = bench.result("n1")
    assert found is not None
    assert (found["passed"], found["exitCode"], found["transitions"]) == (True, 0, 0)
    assert found["pod"] == "gpu-operator/plugin-n1"


async def test_a_selector_that_cannot_be_listed_is_retried_and_affects_no_other(
    kube: FakeKube, bench: PolicyBench, caplog: pytest.LogCaptureFixture
) -> None:
    put_pod(kube, "n1")
    put_pod(kube, "n1", name="other-n1", labels={"app": "other"})
    put_policy(kube, "p", checks=[check("a"), check("b", app="other")])
    kube.fail("GET", "/pods$", forbidden(), times=3)
    await bench.start()
    assert bench.checks.sources == {SOURCE, source("other")}
    await until(lambda: bench.result("n1", "a") and bench.result("n1", "b"), within=20)
    assert sorted(bench.commands()) == [("other-n1", "run-b"), ("plugin-n1", "run-a")]
    lines = [one for one in caplog.records if hasattr(one, "fields")]
    assert {one.fields.get("error") for one in lines if "error" in one.fields} == {"forbidden"}
    # The retries end when both selectors are listed.
    listed = len(kube.asked("GET", "/pods$"))
    await asyncio.sleep(60)
    assert len(kube.asked("GET", "/pods$")) == listed


async def test_the_pods_of_a_new_check_are_listed(kube: FakeKube, bench: PolicyBench) -> None:
    put_pod(kube, "n1")
    await bench.start()
    assert bench.checks.sources == frozenset() and not bench.checks.sources_changed.is_set()
    put_policy(kube, "p", checks=[check()])
    await bench.policies_changed()
    await until(lambda: bench.result("n1"))
    assert bench.checks.sources_changed.is_set()


async def test_a_pod_event_runs_the_check(kube: FakeKube, bench: PolicyBench) -> None:
    put_policy(kube, "p", checks=[check()])
    await bench.start()
    bench.pod("n1")
    await until(lambda: bench.result("n1"))


async def test_checks_of_an_unknown_node_wait_until_it_is_known(
    kube: FakeKube, bench: PolicyBench
) -> None:
    put_policy(kube, "p", checks=[check()])
    await bench.start()
    put_node(kube, "new")
    body = put_pod(kube, "new")
    assert bench.checks.pod_event(SOURCE, body, deleted=False) == {"new"}
    assert bench.checks.pod_event(SOURCE, put_pod(kube, "n1"), deleted=False) == set()
    await asyncio.sleep(60)
    assert bench.result("new") is None
    await bench.look()
    bench.checks.enqueue(["new"])
    await until(lambda: bench.result("new"))


async def test_no_check_runs_if_the_operator_does_not_allow_it(kube: FakeKube) -> None:
    put_node(kube, "n1")
    put_pod(kube, "n1")
    put_policy(kube, "p", checks=[check()])
    bench = PolicyBench(kube, allowed=False)
    await bench.start()
    bench.pod("n1")
    bench.checks.enqueue(["n1"])
    bench.checks.policies_changed()
    assert bench.checks.loops() == []
    await bench.checks.relist()
    await asyncio.sleep(60)
    assert kube.exec.calls == [] and not kube.asked("GET", "/pods$")
    assert bench.checks.sources == frozenset()
    await bench.stop()


@pytest.mark.parametrize("ends", ["suspended", "removed", "deselected"])
async def test_a_run_is_cancelled_when_its_policy_no_longer_applies(
    kube: FakeKube, bench: PolicyBench, ends: str
) -> None:
    put_pod(kube, "n1")
    put_policy(kube, "p", checks=[check(timeout="1h")])
    kube.exec.answer = ExecAnswer(hang=True)
    await bench.start()
    await until(lambda: kube.exec.running)
    if ends == "removed":
        kube.remove(policy_path("p"))
    elif ends == "suspended":
        put_policy(kube, "p", checks=[check(timeout="1h")], suspend=True)
    else:
        selector = {"matchLabels": {"pool": "a"}}
        put_policy(kube, "p", checks=[check(timeout="1h")], nodeSelector=selector)
    await bench.policies_changed()
    await until(lambda: not kube.exec.running)
    await asyncio.sleep(7200)
    assert len(kube.exec.calls) == 1 and bench.result("n1") is None


async def test_a_suspended_inventory_runs_no_checks(kube: FakeKube, bench: PolicyBench) -> None:
    put_pod(kube, "n1")
    put_pod(kube, "n2")
    put_inventory(kube, "n1", spec={"suspend": True})
    put_policy(kube, "p", checks=[check()])
    await bench.start()
    await until(lambda: bench.result("n2"))
    await asyncio.sleep(7200)
    assert "plugin-n1" not in {pod for pod, _ in bench.commands()}
    kube.change(inventory_path("n1"), lambda body: body["spec"].clear())
    await bench.look()
    bench.checks.enqueue(["n1"])
    await until(lambda: bench.result("n1"))


async def test_a_check_whose_name_another_instance_uses_is_skipped(
    kube: FakeKube, bench: PolicyBench, caplog: pytest.LogCaptureFixture
) -> None:
    put_pod(kube, "n1")
    put_foreign(kube, "n1", "theirs")
    put_policy(kube, "p", checks=[check("theirs"), check("mine")])
    await bench.start()
    await until(lambda: bench.result("n1", "mine"))
    await asyncio.sleep(7200)
    assert {command for _, command in bench.commands()} == {"run-mine"}
    lines = [one.fields for one in caplog.records if hasattr(one, "fields")]
    # Logged once.
    assert [fields for fields in lines if fields.get("check") == "theirs"] == [
        {"check": "theirs", "node": "n1"}
    ]


async def test_a_departed_node_runs_no_checks(kube: FakeKube, bench: PolicyBench) -> None:
    put_inventory(kube, "n1", status={"state": "Departed"})
    put_pod(kube, "n1")
    put_pod(kube, "n2")
    put_policy(kube, "p", checks=[check()])
    await bench.start()
    await until(lambda: bench.result("n2"))
    assert bench.commands() == [("plugin-n2", "run-c")]


async def test_a_node_without_gpus_runs_no_checks(kube: FakeKube, bench: PolicyBench) -> None:
    put_node(kube, "plain", gpus=None)
    put_pod(kube, "plain")
    put_pod(kube, "n2")
    put_policy(kube, "p", checks=[check()])
    await bench.start()
    await until(lambda: bench.result("n2"))
    assert bench.commands() == [("plugin-n2", "run-c")]
    assert inventory_path("plain") not in kube.objects


async def test_a_node_with_an_inventory_runs_checks_without_capacity(
    kube: FakeKube, bench: PolicyBench
) -> None:
    """Its device plugin does not run, so the Node has no GPU capacity."""
    put_node(kube, "plain", gpus=None)
    put_inventory(kube, "plain", status={"state": "Present"})
    put_pod(kube, "plain")
    put_policy(kube, "p", checks=[check()])
    await bench.start()
    await until(lambda: bench.result("plain"))


async def test_a_relist_finds_pods_without_events(kube: FakeKube, bench: PolicyBench) -> None:
    put_policy(kube, "p", checks=[check()])
    await bench.start()
    missed = bench.pod("n2", ready=False)
    kube.remove("/api/v1/namespaces/gpu-operator/pods/plugin-n2")
    put_pod(kube, "n1")
    await asyncio.sleep(60)
    assert kube.exec.calls == []
    await bench.checks.relist()
    await until(lambda: bench.result("n1"))
    # The pod that was deleted without an event runs nothing.
    assert missed["metadata"]["name"] not in {pod for pod, _ in bench.commands()}


async def test_a_relist_continues_if_one_selector_cannot_be_listed(
    kube: FakeKube, bench: PolicyBench
) -> None:
    put_policy(kube, "p", checks=[check("a"), check("b", app="other")])
    await bench.start()
    put_pod(kube, "n1")
    put_pod(kube, "n1", name="other-n1", labels={"app": "other"})
    kube.fail("GET", "/pods$", server_error())
    await bench.checks.relist()
    await until(lambda: bench.commands())
    await bench.checks.relist()
    await until(lambda: len(bench.commands()) == 2)


async def test_hanging_checks_occupy_at_most_half_of_the_workers(kube: FakeKube) -> None:
    for number in range(6):
        put_node(kube, f"n{number}")
        put_pod(kube, f"n{number}")
    put_policy(kube, "p", checks=[check(timeout="1h")])
    kube.exec.answer = ExecAnswer(hang=True)
    bench = PolicyBench(kube, workers=4)
    await bench.start()
    await asyncio.sleep(60)
    assert kube.exec.running == 2
    await bench.stop()
