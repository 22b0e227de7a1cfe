"""Leader election: who gets the lease, who waits, and when a leader has lost it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from gpuid_operator.operator.lease import Lease, LeaseOptions, LostLease
from gpuid_operator.operator.process import LEASE_LOST, keep_or_exit
from tests.support.kube import FakeKube, forbidden, unreachable

PATH = "/apis/coordination.k8s.io/v1/namespaces/gpuid/leases/gpuid-operator"
DURATION, RENEW_DEADLINE, RETRY_PERIOD = 15.0, 10.0, 2.0


class Candidate:
    """A candidate for the lease, under the jumping clock."""

    def __init__(self, kube: FakeKube, name: str) -> None:
        options = LeaseOptions(
            namespace="gpuid",
            name="gpuid-operator",
            holder=name,
            duration=DURATION,
            renew_deadline=RENEW_DEADLINE,
            retry_period=RETRY_PERIOD,
        )
        self.clock = asyncio.get_running_loop().time
        self.asleep = 0.0
        """Seconds for which the process was stopped: its loop does not notice them."""
        self.beats: list[float] = []
        self.lease = Lease(
            kube,
            options,
            beat=lambda: self.beats.append(self.clock()),
            now=lambda: self.clock() + self.asleep,
        )

    def fall_asleep(self) -> None:
        self.asleep += 60.0


def spec(kube: FakeKube) -> dict[str, Any]:
    found: dict[str, Any] = kube.objects[PATH]["spec"]
    return found


def holder(kube: FakeKube) -> str:
    return str(spec(kube)["holderIdentity"]).partition("_")[0]


def hold(kube: FakeKube, name: str) -> None:
    """Another client writes itself into the lease."""
    kube.change(PATH, lambda body: body["spec"].update(holderIdentity=name))


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


@asynccontextmanager
async def keeping(candidate: Candidate) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(candidate.lease.keep())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, LostLease):
            await task


async def test_the_first_candidate_creates_the_lease(kube: FakeKube) -> None:
    first = Candidate(kube, "first")
    await first.lease.acquire()
    assert first.clock() == 0
    assert spec(kube)["holderIdentity"] == first.lease.holder
    assert (spec(kube)["leaseDurationSeconds"], spec(kube)["leaseTransitions"]) == (15, 0)


async def test_two_processes_of_one_pod_name_are_two_candidates(kube: FakeKube) -> None:
    assert Candidate(kube, "pod").lease.holder != Candidate(kube, "pod").lease.holder


async def test_of_two_that_create_it_at_once_one_leads(kube: FakeKube) -> None:
    candidates = [Candidate(kube, name) for name in ("first", "second")]
    tasks = [asyncio.create_task(one.lease.acquire()) for one in candidates]
    await asyncio.sleep(10)
    assert sorted(task.done() for task in tasks) == [False, True]
    leader = candidates[[task.done() for task in tasks].index(True)]
    assert spec(kube)["holderIdentity"] == leader.lease.holder
    for task in tasks:
        task.cancel()


async def test_a_standby_beats_and_waits_while_the_leader_renews(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first, second = Candidate(kube, "first"), Candidate(kube, "second")
    await first.lease.acquire()
    async with keeping(first) as kept:
        waiting = asyncio.create_task(second.lease.acquire())
        await asyncio.sleep(601)
        assert not waiting.done() and not kept.done()
        assert len(second.beats) == 301
        assert len(first.beats) >= 299
        waiting.cancel()
    assert holder(kube) == "first"
    # Once per leader, not once per try.
    assert messages(caplog).count("standing by") == 1


@pytest.mark.parametrize(
    ("leader", "shared"),
    [
        ("gpuid-7d9c_0b6e6c5e-5d3a-4c1b-9a53-7b5a4c0f3f5e", 1),  # as of client-go's programs
        ("somebody", 1),
        ("gpuid-operator-5f7b_0b6e6c5e", 0),
    ],
)
async def test_a_standby_says_that_it_shares_the_lease_with_another_program(
    kube: FakeKube, caplog: pytest.LogCaptureFixture, leader: str, shared: int
) -> None:
    caplog.set_level("INFO")
    first, second = Candidate(kube, "first"), Candidate(kube, "second")
    await first.lease.acquire()
    hold(kube, leader)
    waiting = asyncio.create_task(second.lease.acquire())
    await asyncio.sleep(DURATION - 1)
    waiting.cancel()
    assert [said for said in messages(caplog) if said == "standing by"] == ["standing by"]
    warnings = [line for line in caplog.records if "lease is shared with" in line.message]
    assert [vars(line)["fields"]["leader"] for line in warnings] == shared * [leader]
    assert not any(line.levelname != "WARNING" for line in warnings)


async def test_a_standby_takes_over_when_the_lease_has_not_changed_for_its_duration(
    kube: FakeKube,
) -> None:
    first, second = Candidate(kube, "first"), Candidate(kube, "second")
    await first.lease.acquire()
    await second.lease.acquire()
    assert holder(kube) == "second"
    assert DURATION <= second.clock() <= DURATION + RETRY_PERIOD
    assert spec(kube)["leaseTransitions"] == 1


async def test_the_clock_of_another_machine_does_not_count(kube: FakeKube) -> None:
    first, second = Candidate(kube, "first"), Candidate(kube, "second")
    await first.lease.acquire()
    kube.change(PATH, lambda body: body["spec"].update(renewTime="2001-01-01T00:00:00.000000Z"))
    waiting = asyncio.create_task(second.lease.acquire())
    await asyncio.sleep(DURATION - 1)
    assert not waiting.done()
    waiting.cancel()


async def test_a_released_lease_is_taken_at_the_next_try(kube: FakeKube) -> None:
    first, second = Candidate(kube, "first"), Candidate(kube, "second")
    await first.lease.acquire()
    waiting = asyncio.create_task(second.lease.acquire())
    await asyncio.sleep(1)
    await first.lease.release()
    assert holder(kube) == ""
    await waiting
    assert second.clock() <= 1 + RETRY_PERIOD
    assert holder(kube) == "second"


async def test_a_standby_that_loses_the_race_for_an_expired_lease_waits_on(kube: FakeKube) -> None:
    first, second = Candidate(kube, "first"), Candidate(kube, "second")
    await first.lease.acquire()
    held = asyncio.Event()
    fault = kube.fail("PUT", "/leases/", until=held)
    waiting = asyncio.create_task(second.lease.acquire())
    await fault.met.wait()
    hold(kube, "third")
    held.set()
    await asyncio.sleep(1)
    assert not waiting.done()
    assert holder(kube) == "third"
    waiting.cancel()


async def test_a_missing_right_is_logged_and_tried_again(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    kube.fail("GET", "/leases/", forbidden(), times=3)
    first = Candidate(kube, "first")
    await first.lease.acquire()
    assert first.clock() == 3 * RETRY_PERIOD
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert {record.message for record in warnings} == {"failed to acquire lease"}
    assert warnings[0].__dict__["fields"]["lease"] == "gpuid/gpuid-operator"


async def test_a_leader_outlives_errors_shorter_than_its_deadline(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    first = Candidate(kube, "first")
    await first.lease.acquire()
    kube.fail("PUT", "/leases/", unreachable(), times=3)
    async with keeping(first) as kept:
        await asyncio.sleep(60)
        assert not kept.done()
    assert messages(caplog).count("failed to renew lease") == 3


async def test_a_leader_that_cannot_renew_has_lost_the_lease_at_its_deadline(
    kube: FakeKube,
) -> None:
    first = Candidate(kube, "first")
    await first.lease.acquire()
    kube.fail("PUT", "/leases/", unreachable(), times=100)
    with pytest.raises(LostLease, match="failed to renew lease gpuid/gpuid-operator within 10s"):
        await first.lease.keep()
    assert RENEW_DEADLINE <= first.clock() < DURATION
    assert first.beats == [0]


@pytest.mark.parametrize("error", [None, unreachable()])
async def test_a_leader_that_was_stopped_during_a_renewal_has_lost_the_lease_when_it_wakes(
    kube: FakeKube, error: Exception | None
) -> None:
    """Not one retry period later: the next leader works by then."""
    first = Candidate(kube, "first")
    await first.lease.acquire()
    kube.fail("PUT", "/leases/", error, meanwhile=first.fall_asleep)
    with pytest.raises(LostLease, match="failed to renew lease"):
        await first.lease.keep()
    assert first.clock() == RETRY_PERIOD


async def test_a_leader_whose_lease_another_holds_has_lost_it_at_once(kube: FakeKube) -> None:
    first = Candidate(kube, "first")
    await first.lease.acquire()
    hold(kube, "second")
    with pytest.raises(LostLease, match="another instance holds lease gpuid/gpuid-operator"):
        await first.lease.keep()
    assert first.clock() == RETRY_PERIOD


async def test_a_leader_keeps_a_lease_that_somebody_else_has_annotated(kube: FakeKube) -> None:
    first = Candidate(kube, "first")
    await first.lease.acquire()
    kube.change(PATH, lambda body: body["metadata"].update(annotations={"note": "a"}))
    async with keeping(first) as kept:
        await asyncio.sleep(60)
        assert not kept.done()
    assert len(first.beats) > 20


async def test_a_conflict_that_cannot_be_looked_into_is_no_loss_before_the_deadline(
    kube: FakeKube,
) -> None:
    first = Candidate(kube, "first")
    await first.lease.acquire()
    kube.change(PATH, lambda body: body["metadata"].update(annotations={"note": "a"}))
    kube.fail("GET", "/leases/", unreachable(), times=2)
    async with keeping(first) as kept:
        await asyncio.sleep(60)
        assert not kept.done()


async def test_releasing_a_lease_that_was_never_held_writes_nothing(kube: FakeKube) -> None:
    await Candidate(kube, "first").lease.release()
    assert kube.requests == []


async def test_a_release_that_fails_is_logged_and_not_repeated(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    first = Candidate(kube, "first")
    await first.lease.acquire()
    kube.fail("PUT", "/leases/", unreachable())
    await first.lease.release()
    await first.lease.release()
    assert messages(caplog).count("failed to release lease") == 1
    assert len(kube.asked("PUT", "/leases/")) == 1


async def test_a_renewal_whose_answer_did_not_come_does_not_keep_the_lease(kube: FakeKube) -> None:
    first = Candidate(kube, "first")
    await first.lease.acquire()
    fault = kube.fail("PUT", "/leases/", after=True, delay=60.0)
    async with keeping(first):
        await fault.met.wait()
    await first.lease.release()
    assert holder(kube) == ""


async def test_a_lease_that_another_holds_by_now_is_not_released(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    first = Candidate(kube, "first")
    await first.lease.acquire()
    hold(kube, "second")
    await first.lease.release()
    assert holder(kube) == "second"
    assert messages(caplog).count("failed to release lease") == 1


async def test_a_leader_without_its_lease_ends_the_process_with_exit_code_3(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    first = Candidate(kube, "first")
    await first.lease.acquire()
    hold(kube, "second")
    await keep_or_exit(first.lease)
    assert codes == [LEASE_LOST] == [3]
    assert messages(caplog)[-1] == "lost lease; exiting"
