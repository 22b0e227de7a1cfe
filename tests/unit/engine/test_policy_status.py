"""The statuses of policies: how many nodes each applies to, and with which it conflicts."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from gpuid_operator.api.policy import Policy
from gpuid_operator.engine.writing.policy_status import QUIET, PolicyStatuses
from gpuid_operator.kube.nodes import NodeFacts
from tests.support import clock
from tests.support.engines import until
from tests.support.kube import FakeKube, forbidden
from tests.support.objects import policy_path, put_inventory, put_node, put_policy
from tests.support.writing import Writing

ANY = r"/gpuinventorypolicies/[^/]+/status$"
GOLD = {"matchLabels": {"tier": "gold"}}


@pytest.fixture
async def writing(kube: FakeKube) -> Writing:
    """Three nodes; n1 and n2 have the label tier=gold."""
    writing = Writing(kube)
    for name, labels in (("n1", {"tier": "gold"}), ("n2", {"tier": "gold"}), ("n3", {})):
        writing.state.nodes.put(
            NodeFacts.from_node(put_node(kube, name, labels=labels)), requested=0.0
        )
        put_inventory(kube, name, status={"state": "Present"})
        writing.load(name)
    return writing


class Statuses(PolicyStatuses):
    """A writer that runs within `async with`."""

    async def __aenter__(self) -> Statuses:
        self._task = asyncio.create_task(self.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
def statuses(kube: FakeKube, writing: Writing) -> Statuses:
    return Statuses(kube, state=writing.state, clock=clock.now)


def put(kube: FakeKube, writing: Writing, name: str, **spec: Any) -> None:
    writing.state.policies.put(Policy.from_object(put_policy(kube, name, **spec)))


def status(kube: FakeKube, name: str) -> dict[str, Any]:
    found: dict[str, Any] = kube.objects[policy_path(name)].get("status") or {}
    return found


def condition(kube: FakeKube, name: str, kind: str) -> tuple[str, str, str]:
    (found,) = [one for one in status(kube, name)["conditions"] if one["type"] == kind]
    return found["status"], found["reason"], found["message"]


async def test_each_policy_counts_the_nodes_that_it_applies_to(
    kube: FakeKube, writing: Writing, statuses: Statuses
) -> None:
    put(kube, writing, "all")
    put(kube, writing, "gold", priority=1, nodeSelector=GOLD)
    put(kube, writing, "none", nodeSelector={"matchLabels": {"tier": "tin"}})
    async with statuses:
        await until(lambda: len(kube.asked("PATCH", ANY)) == 3)
        counts = {name: status(kube, name).get("matchedNodes") for name in ("all", "gold", "none")}
        assert counts == {"all": 1, "gold": 2, "none": 0}
        assert condition(kube, "gold", "Ready")[:2] == ("True", "InForce")
        assert condition(kube, "gold", "Conflict")[:2] == ("False", "NoConflict")


@pytest.mark.usefixtures("short_turns")
async def test_nodes_are_counted_again_if_the_policies_change_meanwhile(
    kube: FakeKube, writing: Writing, statuses: Statuses
) -> None:
    put(kube, writing, "all")
    async with statuses:
        for _ in range(2):
            await asyncio.sleep(0)
        put(kube, writing, "gold", priority=1, nodeSelector=GOLD)
        await until(lambda: "matchedNodes" in status(kube, "gold"))
        await until(lambda: status(kube, "all").get("matchedNodes") == 1)
    statuses_of_all = [one.body["status"] for one in kube.asked("PATCH", "/all/status$")]
    assert [one["matchedNodes"] for one in statuses_of_all] == [1]
    assert [one.body["status"]["matchedNodes"] for one in kube.asked("PATCH", "/gold/")] == [2]


async def test_policies_of_one_priority_name_each_other(
    kube: FakeKube, writing: Writing, statuses: Statuses
) -> None:
    put(kube, writing, "a", nodeSelector=GOLD)
    put(kube, writing, "b")
    async with statuses:
        await until(lambda: len(kube.asked("PATCH", ANY)) == 2)
        for name, other, matched in (("a", "b", 2), ("b", "a", 1)):
            turned, reason, message = condition(kube, name, "Conflict")
            assert (turned, reason) == ("True", "SamePriority")
            assert f"nodes with {other};" in message
            assert status(kube, name)["matchedNodes"] == matched


@pytest.mark.parametrize("state", ["Departed", "skipped"])
async def test_departed_and_skipped_nodes_do_not_count(
    kube: FakeKube, writing: Writing, statuses: Statuses, state: str
) -> None:
    put(kube, writing, "all")
    if state == "Departed":
        put_inventory(kube, "n3", status={"state": "Departed"})
    else:
        writing.state.policies.put(Policy(name="newer", fault="spec: invalid"))
        put_inventory(kube, "n3", status={"state": "Present", "policy": "newer"})
    writing.load("n3")
    async with statuses:
        await until(lambda: kube.asked("PATCH", ANY))
        await until(lambda: status(kube, "all"))
        assert status(kube, "all")["matchedNodes"] == 2


async def test_a_status_is_written_only_when_it_changed(
    kube: FakeKube, writing: Writing, statuses: Statuses
) -> None:
    put(kube, writing, "all")
    put(kube, writing, "gold", priority=-1, nodeSelector=GOLD)
    async with statuses:
        await until(lambda: len(kube.asked("PATCH", ANY)) == 2)
        since = condition(kube, "all", "Ready")
        statuses.touch()
        await asyncio.sleep(2 * QUIET)
        assert len(kube.asked("PATCH", ANY)) == 2
        put_inventory(kube, "n3", status={"state": "Departed"})
        writing.load("n3")
        statuses.touch()
        await until(lambda: status(kube, "all")["matchedNodes"] == 2)
        assert len(kube.asked("PATCH", ANY)) == 3
        assert condition(kube, "all", "Ready") == since


async def test_changes_in_quick_succession_share_a_write(
    kube: FakeKube, writing: Writing, statuses: Statuses
) -> None:
    put(kube, writing, "all")
    async with statuses:
        for number in range(50):
            name = f"m{number}"
            writing.state.nodes.put(NodeFacts.from_node(put_node(kube, name)), requested=0.0)
            put_inventory(kube, name, status={"state": "Present"})
            writing.load(name)
            statuses.touch()
            await asyncio.sleep(0.1)
        await until(lambda: status(kube, "all")["matchedNodes"] == 53)
        # The changes take 5 seconds, and a round takes place every 2 seconds.
        assert len(kube.asked("PATCH", ANY)) <= 4


async def test_a_failed_write_is_retried_and_delays_no_other_policy(
    kube: FakeKube, writing: Writing, statuses: Statuses, caplog: pytest.LogCaptureFixture
) -> None:
    put(kube, writing, "a", priority=1, nodeSelector=GOLD)
    put(kube, writing, "b")
    kube.fail("PATCH", "/a/status$", forbidden())
    async with statuses:
        await until(lambda: status(kube, "b"))
        assert not status(kube, "a")
        await until(lambda: status(kube, "a"))
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert caplog.records[0].__dict__["fields"]["policy"] == "a"
        first, second = kube.asked("PATCH", "/a/status$")
        assert second.time - first.time >= QUIET
        (other,) = kube.asked("PATCH", "/b/status$")
        assert other.time < second.time


async def test_a_policy_that_cannot_be_written_is_backed_off_from_while_others_change(
    kube: FakeKube, writing: Writing, statuses: Statuses
) -> None:
    put(kube, writing, "a", priority=1, nodeSelector=GOLD)
    put(kube, writing, "b")
    kube.fail("PATCH", "/a/status$", forbidden(), times=1000)
    async with statuses:
        for number in range(300):
            statuses.touch()
            if number == 200:
                put_inventory(kube, "n3", status={"state": "Departed"})
                writing.load("n3")
            await asyncio.sleep(QUIET)
        assert status(kube, "b")["matchedNodes"] == 0
        tries = [request.time for request in kube.asked("PATCH", "/a/status$")]
        # 600 seconds: pauses of 2 to 4, 4 to 8, and so on up to 150 to 300 seconds.
        assert 7 <= len(tries) <= 11
        pauses = [after - before for before, after in pairwise(tries)]
        assert pauses[0] < pauses[2] < pauses[4]


async def test_a_policy_that_changed_is_written_without_waiting_for_the_back_off(
    kube: FakeKube, writing: Writing, statuses: Statuses
) -> None:
    put(kube, writing, "all")
    fault = kube.fail("PATCH", ANY, forbidden(), times=5)
    async with statuses:
        await until(lambda: len(kube.asked("PATCH", ANY)) == 5)
        assert fault.met.is_set()
        changed = asyncio.get_running_loop().time()
        put(kube, writing, "all", priority=1)
        statuses.touch()
        await until(lambda: status(kube, "all"))
        assert kube.asked("PATCH", ANY)[-1].time - changed <= QUIET


async def test_a_deleted_policy_is_not_retried(
    kube: FakeKube, writing: Writing, statuses: Statuses
) -> None:
    put(kube, writing, "all")
    kube.fail("PATCH", ANY, forbidden(), times=1000)
    async with statuses:
        await until(lambda: kube.asked("PATCH", ANY))
        writing.state.policies.remove("all")
        await asyncio.sleep(600)
        assert len(kube.asked("PATCH", ANY)) == 1


async def test_a_conflict_is_resolved_by_the_event_of_the_changed_policy(
    kube: FakeKube, writing: Writing, statuses: Statuses
) -> None:
    put(kube, writing, "all", priority=1)
    put_policy(kube, "all", priority=2)  # its event has not arrived yet
    async with statuses:
        await until(lambda: kube.asked("PATCH", ANY))
        await asyncio.sleep(QUIET)
        assert status(kube, "all") == {}
        put(kube, writing, "all", priority=2)
        await until(lambda: status(kube, "all"))
        assert status(kube, "all")["observedGeneration"] == 2
        assert next(iter(writing.state.policies)).status.matched_nodes == 3


async def test_a_policy_that_cannot_be_parsed_says_why(
    kube: FakeKube, writing: Writing, statuses: Statuses
) -> None:
    put(kube, writing, "later", nodeSelector="FromTheFuture")
    async with statuses:
        await until(lambda: status(kube, "later"))
        ready, reason, message = condition(kube, "later", "Ready")
        assert (ready, reason) == ("False", "NotUnderstood")
        assert "nodeSelector: Input should be" in message
        assert status(kube, "later")["observedGeneration"] == 1
        assert status(kube, "later")["matchedNodes"] == 0
        statuses.touch()
        await asyncio.sleep(2 * QUIET)
        assert len(kube.asked("PATCH", ANY)) == 1
        put(kube, writing, "later")
        statuses.touch()
        await until(lambda: status(kube, "later"))
        assert condition(kube, "later", "Ready")[:2] == ("True", "InForce")
