"""The results of policies' checks, stored in inventories beside the writes of others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from gpuid_operator.api.meta import MANAGED_BY_LABEL, MAX_CHECKS
from gpuid_operator.engine.checks.inventory_result_store import InventoryResultStore
from gpuid_operator.kube.errors import ApiError, ApiUnreachable
from gpuid_operator.kube.events import EventType
from gpuid_operator.plan.checks import CheckResult
from tests.support import clock
from tests.support.checks import event_messages
from tests.support.kube import FakeKube, forbidden, server_error
from tests.support.objects import (
    CONTAINER,
    inventory_path,
    policy_path,
    put_inventory,
    put_node,
    put_policy,
)
from tests.support.policy_checks import PolicyBench, check, put_foreign

FAILED = CheckResult(
    name="c",
    digest="d",
    passed=False,
    exit_code=1,
    stdout="",
    stderr="bad",
    pod="gpu-operator/plugin-n1",
    time=clock.START,
)


@pytest.fixture
async def bench(kube: FakeKube) -> AsyncIterator[PolicyBench]:
    put_node(kube, "n1")
    put_policy(kube, "p", checks=[check()])
    bench = PolicyBench(kube)
    await bench.look()
    yield bench
    await bench.stop()


@pytest.fixture
def results(bench: PolicyBench) -> InventoryResultStore:
    return InventoryResultStore(
        bench.recorder,
        state=bench.state,
        status_writer=bench.status_writer,
        clock=clock.now,
    )


async def test_a_check_of_a_policy_has_defaults(results: InventoryResultStore) -> None:
    (job,) = results.jobs("n1")
    assert (job.name, job.container, job.command) == ("c", CONTAINER, "run-c")
    assert (job.timeout, job.interval) == (timedelta(seconds=30), timedelta(hours=1))
    assert not job.restart
    assert (job.source.namespace, job.source.selector) == (
        "gpu-operator",
        "app=nvidia-device-plugin-daemonset",
    )


async def test_a_policy_sets_how_its_check_runs(
    kube: FakeKube, bench: PolicyBench, results: InventoryResultStore
) -> None:
    fields: dict[str, Any] = {
        "timeout": "5s",
        "interval": "0s",
        "onFailure": "RestartPod",
        "container": None,
    }
    put_policy(kube, "p", checks=[check(**fields)])
    await bench.look()
    (job,) = results.every_job()
    assert (job.timeout, job.interval) == (timedelta(seconds=5), timedelta(0))
    assert job.restart and job.container is None


async def test_a_first_failure_creates_the_inventory_and_a_history_entry(
    kube: FakeKube, results: InventoryResultStore
) -> None:
    assert results.check("n1", "c") is None
    await results.record("n1", FAILED)
    body = kube.objects[inventory_path("n1")]
    assert body["metadata"]["labels"][MANAGED_BY_LABEL]
    status = body["status"]
    assert status["state"] == "Present" and status["node"]["machine"] == "i-n1"
    assert [entry["type"] for entry in status["history"]] == ["CheckFailed"]
    (condition,) = [one for one in status["conditions"] if one["type"] == "ChecksPassed"]
    assert (condition["status"], condition["reason"]) == ("False", "ChecksFailed")
    known = results.check("n1", "c")
    assert known is not None and known.passed is False and known.stderr is None
    ((on_node),) = results.known()
    assert (on_node.node, on_node.present, on_node.check) == ("n1", True, known)


async def test_a_concurrent_write_of_another_client_is_kept(
    kube: FakeKube, bench: PolicyBench, results: InventoryResultStore
) -> None:
    put_inventory(kube, "n1", status={"state": "Present", "sequence": 7})
    await bench.look()
    kube.change(inventory_path("n1"), lambda body: body["spec"].update(suspend=False))
    await results.record("n1", FAILED)
    body = kube.objects[inventory_path("n1")]
    assert body["spec"] == {"suspend": False}
    assert body["status"]["sequence"] == 8
    assert len(kube.asked("PATCH", "/status$")) == 2


@pytest.mark.parametrize("after", [False, True])
async def test_a_transition_is_counted_once_whether_or_not_the_failed_write_took_effect(
    kube: FakeKube, results: InventoryResultStore, after: bool
) -> None:
    await results.record("n1", replace(FAILED, passed=True))
    kube.fail("PATCH", "/status$", ApiUnreachable("no answer"), after=after)
    await results.record("n1", FAILED)
    (found,) = kube.objects[inventory_path("n1")]["status"]["checks"]
    # If the answer was lost, the retry decides on a status that has the transition already.
    assert found["transitions"] == 1 and found["recorded"] == 1
    assert kube.objects[inventory_path("n1")]["status"]["sequence"] == 1


async def test_a_forbidden_write_is_an_error(kube: FakeKube, results: InventoryResultStore) -> None:
    kube.fail("POST", "gpuinventories$", forbidden())
    with pytest.raises(ApiError):
        await results.record("n1", FAILED)
    assert results.check("n1", "c") is None


async def test_a_server_that_keeps_failing_is_an_error(
    kube: FakeKube, results: InventoryResultStore
) -> None:
    kube.fail("PATCH", "/status$", server_error(), times=20)
    with pytest.raises(ApiError):
        await results.record("n1", FAILED)
    assert results.check("n1", "c") is None


async def test_a_restart_is_stored_with_its_time(
    kube: FakeKube, results: InventoryResultStore
) -> None:
    await results.record("n1", FAILED)
    assert await results.record_restart("n1", "c", now=clock.now())
    (found,) = kube.objects[inventory_path("n1")]["status"]["checks"]
    assert (found["restarts"], found["lastRestartTime"]) == (1, "2026-06-07T10:30:45Z")
    # This decision knew of the first restart.
    assert await results.record_restart("n1", "c", now=clock.now() + timedelta(minutes=20))


async def test_a_restart_is_refused_if_another_was_stored_meanwhile(
    kube: FakeKube, results: InventoryResultStore
) -> None:
    await results.record("n1", FAILED)

    def restarted(body: dict[str, Any]) -> None:
        body["status"]["checks"][0]["lastRestartTime"] = "2026-06-07T10:30:00Z"

    kube.change(inventory_path("n1"), restarted)
    assert not await results.record_restart("n1", "c", now=clock.now())
    (found,) = kube.objects[inventory_path("n1")]["status"]["checks"]
    assert "restarts" not in found


async def test_a_restart_is_refused_if_the_inventory_is_gone(
    kube: FakeKube, bench: PolicyBench, results: InventoryResultStore
) -> None:
    assert not await results.record_restart("n1", "c", now=clock.now())
    await results.record("n1", FAILED)
    kube.remove(inventory_path("n1"))
    assert not await results.record_restart("n1", "c", now=clock.now())
    assert inventory_path("n1") not in kube.objects


async def test_an_event_needs_an_inventory(
    kube: FakeKube, bench: PolicyBench, results: InventoryResultStore
) -> None:
    results.record_event("n1", reason="RestartRefused", message="none yet", type=EventType.WARNING)
    await results.record("n1", FAILED)
    results.record_event(
        "n1", reason="RestartRefused", message="no controller", type=EventType.WARNING
    )
    await bench.recorder.finish(within=5)
    assert event_messages(kube, "RestartRefused") == ["no controller"]


async def test_a_departed_node_does_not_count_as_present(
    kube: FakeKube, bench: PolicyBench, results: InventoryResultStore
) -> None:
    checks = [{"name": "c", "passed": False}]
    put_inventory(kube, "old", status={"state": "Departed", "checks": checks})
    await bench.look()
    assert [(seen.node, seen.present) for seen in results.known()] == [("old", False)]
    await results.refresh()
    assert len(results.known()) == 1


async def test_checks_of_other_instances_count_towards_the_limit(
    kube: FakeKube, bench: PolicyBench, results: InventoryResultStore
) -> None:
    put_foreign(kube, "n1", "x", "y")
    put_policy(kube, "p", checks=[check(f"c{number}") for number in range(MAX_CHECKS)])
    await bench.look()
    assert len(results.jobs("n1")) == MAX_CHECKS - 2


async def test_a_node_with_an_invalid_inventory_runs_no_checks(
    kube: FakeKube, bench: PolicyBench, results: InventoryResultStore
) -> None:
    put_inventory(kube, "n1", status={"state": "Molten"})
    with pytest.raises(ValidationError):
        await bench.look()
    assert results.jobs("n1") == ()


async def test_a_node_under_an_unreadable_policy_runs_no_checks(
    kube: FakeKube, bench: PolicyBench, results: InventoryResultStore
) -> None:
    put_inventory(kube, "n1", status={"state": "Present", "policy": "p"})
    await bench.look()
    assert results.jobs("n1")
    body = put_policy(kube, "p", checks="all")
    bench.state.policies.take(body, deleted=False)
    assert results.jobs("n1") == ()
    kube.remove(policy_path("p"))
    bench.state.policies.take(body, deleted=True)
    assert results.every_job() == []
