"""The results of a check runner: one entry of each inventory, beside other writers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.engine.check_runner.result_store import RunnerResultStore
from gpuid_operator.engine.checks.pods import CheckPods
from gpuid_operator.kube.errors import ApiUnreachable, Conflict, KubeError, NotFound
from gpuid_operator.kube.events import EventType
from gpuid_operator.kube.paging import list_pages
from gpuid_operator.plan.checks import CheckResult
from gpuid_operator.telemetry.metrics import Metrics
from tests.support import clock
from tests.support.checks import SOURCE, event_messages, job
from tests.support.kube import INVENTORIES, FakeKube
from tests.support.objects import inventory_path, put_inventory, put_pod
from tests.support.policy_checks import put_foreign
from tests.support.runners import RUNNER, apply_as

PASSED = CheckResult(
    name="c",
    digest="d",
    passed=True,
    exit_code=0,
    stdout="fine",
    stderr="",
    pod="gpu-operator/plugin-n1",
    time=clock.START,
)
FAILED = replace(PASSED, passed=False, exit_code=1, stderr="bad")


class Store:
    """A result store, the metrics that it sets, and the pods of its check."""

    def __init__(self, kube: FakeKube) -> None:
        self.kube = kube
        self.pods = CheckPods()
        self.pods.follow([job()])
        self.suspended: set[str] = set()
        self.metrics = Metrics()
        self.results = RunnerResultStore(
            kube,
            job(),
            pods=self.pods,
            is_suspended=self.suspended.__contains__,
            metrics=self.metrics,
        )

    def pod(self, node: str) -> None:
        self.pods.put(SOURCE, put_pod(self.kube, node), deleted=False)

    def entry(self, node: str = "n1") -> dict[str, Any] | None:
        checks = self.kube.objects[inventory_path(node)].get("status", {}).get("checks", ())
        return next((item for item in checks if item["name"] == "c"), None)

    def shown(self) -> str:
        return self.metrics.render("")[1].decode()


@pytest.fixture
def store(kube: FakeKube) -> Store:
    return Store(kube)


async def test_a_first_result_creates_the_inventory_and_the_next_needs_no_read(
    kube: FakeKube, store: Store
) -> None:
    await store.results.record("n1", PASSED)
    await store.results.record("n1", FAILED)
    assert len(kube.asked("GET", "gpuinventories")) == 1
    assert len(kube.asked("POST", "gpuinventories")) == 1
    assert len(kube.asked("PATCH", "gpuinventories")) == 2
    found = store.entry()
    assert found is not None
    assert (found["passed"], found["transitions"], found["stderr"]) == (False, 1, "bad")
    known = store.results.check("n1", "c")
    assert known is not None and known.passed is False and known.stdout is None
    assert store.results.check("n1", "other") is None and store.results.check("n2", "c") is None
    assert 'gpuid_check_passed{check="c",node="n1"} 0.0' in store.shown()


async def test_two_runners_that_create_an_inventory_share_one(kube: FakeKube, store: Store) -> None:
    """The other runner creates it between the read and the creation."""
    gone = NotFound("not found", status=404, reason="NotFound", server_message="not found")
    await Store(kube).results.record("n1", FAILED)
    kube.fail("GET", "gpuinventories", gone)
    await store.results.record("n1", PASSED)
    assert len(kube.asked("POST", "gpuinventories")) == 2
    found = store.entry()
    assert found is not None and (found["passed"], found["transitions"]) == (True, 2)


async def test_fields_of_other_managers_are_left_alone(kube: FakeKube, store: Store) -> None:
    put_inventory(kube, "n1", labels={"a": "b"})
    await apply_as(kube, MANAGER, "n1", state="Present", gpuCount=8)
    await store.results.record("n1", PASSED)
    await apply_as(kube, MANAGER, "n1", state="Present", gpuCount=7)
    await store.results.record("n1", FAILED)
    body = kube.objects[inventory_path("n1")]
    assert body["metadata"]["labels"] == {"a": "b"}
    assert (body["status"]["state"], body["status"]["gpuCount"]) == ("Present", 7)
    assert store.entry() is not None
    patches = kube.asked("PATCH", "gpuinventories")
    # The second result takes one conflict and one retry.
    assert [one.params["fieldManager"] for one in patches].count(RUNNER) == 3


async def test_the_runner_does_not_own_how_many_transitions_are_in_history(
    kube: FakeKube, store: Store
) -> None:
    await store.results.record("n1", FAILED)
    await apply_as(kube, MANAGER, "n1", state="Present", checks=[{"name": "c", "recorded": 1}])
    await store.results.record("n1", PASSED)
    found = store.entry()
    assert found is not None and (found["transitions"], found["recorded"]) == (2, 1)
    for request in kube.asked("PATCH", "gpuinventories"):
        if request.params["fieldManager"] == RUNNER:
            assert "recorded" not in request.body["status"]["checks"][0]


async def test_a_check_name_that_another_instance_uses_is_an_error(
    kube: FakeKube, store: Store
) -> None:
    put_foreign(kube, "n1", "c")
    with pytest.raises(KubeError, match="CHECK_NAME"):
        await store.results.record("n1", PASSED)
    assert not kube.asked("PATCH", "gpuinventories")
    found = store.entry()
    assert found is not None and "stdout" not in found


async def test_a_field_that_another_manager_owns_is_a_conflict(
    kube: FakeKube, store: Store
) -> None:
    """The runner retries and does not force its entry."""
    put_inventory(kube, "n1")
    await apply_as(kube, "someone", "n1", checks=[{"name": "c", "passed": False}])
    with pytest.raises(Conflict):
        await store.results.record("n1", PASSED)
    found = store.entry()
    assert found is not None and found["passed"] is False
    assert store.results.check("n1", "c") is None
    assert len(kube.asked("PATCH", "gpuinventories")) == 7


async def test_a_deleted_inventory_is_created_again(kube: FakeKube, store: Store) -> None:
    await store.results.record("n1", FAILED)
    kube.remove(inventory_path("n1"))
    await store.results.record("n1", FAILED)
    found = store.entry()
    # The first run is forgotten: this is a first failure again.
    assert found is not None and found["transitions"] == 1


@pytest.mark.parametrize("after", [False, True])
async def test_a_transition_is_counted_once_whether_or_not_the_failed_write_took_effect(
    kube: FakeKube, store: Store, after: bool
) -> None:
    await store.results.record("n1", PASSED)
    kube.fail("PATCH", "gpuinventories", ApiUnreachable("no answer"), after=after)
    with pytest.raises(ApiUnreachable):
        await store.results.record("n1", FAILED)
    await store.results.record("n1", FAILED)
    found = store.entry()
    assert found is not None and found["transitions"] == 1


async def test_a_stored_restart_keeps_the_output(kube: FakeKube, store: Store) -> None:
    await store.results.record("n1", FAILED)
    assert await store.results.record_restart("n1", "c", now=clock.now())
    found = store.entry()
    assert found is not None
    assert (found["restarts"], found["stderr"]) == (1, "bad")
    assert found["lastRestartTime"] == "2026-06-07T10:30:45Z"


async def test_a_restart_is_refused_if_another_was_stored_meanwhile(
    kube: FakeKube, store: Store
) -> None:
    """By another process of the same runner, before the lease moved."""
    await store.results.record("n1", FAILED)
    other = Store(kube)
    await other.results.refresh()
    assert await other.results.record_restart("n1", "c", now=clock.now())
    assert not await store.results.record_restart("n1", "c", now=clock.now() + timedelta(minutes=1))
    found = store.entry()
    assert found is not None and found["restarts"] == 1


async def test_a_restart_of_a_check_without_a_result_is_refused(
    kube: FakeKube, store: Store
) -> None:
    assert not await store.results.record_restart("n1", "c", now=clock.now())


async def test_a_refresh_stores_all_inventories_and_forgets_deleted_ones(
    kube: FakeKube, store: Store
) -> None:
    other = Store(kube)
    for node in ("n1", "n2"):
        await other.results.record(node, FAILED)
    await store.results.refresh()
    assert {seen.node for seen in store.results.known()} == {"n1", "n2"}
    kube.remove(inventory_path("n2"))
    await store.results.refresh()
    assert {seen.node for seen in store.results.known()} == {"n1"}
    assert store.results.check("n2", "c") is None
    assert 'node="n1"' in store.shown() and 'node="n2"' not in store.shown()


async def test_a_refresh_fetches_only_what_others_changed(kube: FakeKube, store: Store) -> None:
    for node in ("n1", "n2", "n3"):
        await store.results.record(node, FAILED)
    await store.results.refresh()
    kube.requests.clear()
    await Store(kube).results.record("n2", PASSED)
    kube.requests.clear()
    await store.results.refresh()
    paths = [request.path for request in kube.requests]
    assert paths == [INVENTORIES, inventory_path("n2")]
    known = store.results.check("n2", "c")
    assert known is not None and known.passed is True


@pytest.mark.parametrize("listed", [False, True])
async def test_a_write_during_a_list_is_kept(
    kube: FakeKube, store: Store, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list shows the state before the write."""
    await store.results.record("n1", PASSED)
    if not listed:
        kube.remove(inventory_path("n1"))

    async def slow(*args: Any, **kwargs: Any) -> Any:
        async for page in list_pages(*args, **kwargs):
            await store.results.record("n1", FAILED)
            yield page

    monkeypatch.setattr("gpuid_operator.kube.inventories.list_pages", slow)
    await store.results.refresh()
    known = store.results.check("n1", "c")
    assert known is not None and known.passed is False


async def test_a_node_is_present_if_it_has_a_pod_and_has_not_departed(
    kube: FakeKube, store: Store
) -> None:
    checks = [{"name": "c", "passed": False}]
    for node in ("n1", "n2"):
        store.pod(node)
    put_inventory(kube, "n1", status={"checks": checks})
    put_inventory(kube, "n2", status={"checks": checks, "state": "Departed"})
    put_inventory(kube, "n3", status={"checks": checks})
    await store.results.refresh()
    present = {seen.node: seen.present for seen in store.results.known()}
    assert present == {"n1": True, "n2": False, "n3": False}


async def test_a_suspended_node_runs_no_checks(kube: FakeKube, store: Store) -> None:
    put_inventory(kube, "n1", spec={"suspend": True})
    put_inventory(kube, "n2")
    await store.results.refresh()
    store.suspended.add("n3")
    assert [list(store.results.jobs(node)) for node in ("n1", "n2", "n3", "n4")] == [
        [],
        [job()],
        [],
        [job()],
    ]


async def test_an_event_needs_an_inventory(kube: FakeKube, store: Store) -> None:
    store.results.record_event(
        "n1", reason="RestartRefused", message="none", type=EventType.WARNING
    )
    await store.results.record("n1", FAILED)
    store.results.record_event("n1", reason="RestartRefused", message="one", type=EventType.WARNING)
    await store.results.close(within=5)
    assert event_messages(kube, "RestartRefused") == ["one"]
    assert RUNNER == "gpuid-operator-check-c"
