"""Runs of nvidia-smi: the command, the slots, and how a run is stopped."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from gpuid_operator.engine.reading.smi_run import SmiRuns, read_error
from gpuid_operator.kube.errors import (
    CommandNotFound,
    ExecError,
    ExecFailed,
    ExecForbidden,
    ExecIncomplete,
    ExecPodGone,
    ExecTimedOut,
    ExecTooLarge,
)
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.failure import FailureReason, ReadError
from gpuid_operator.plan.target import GKE_NVIDIA_SMI
from tests.support.engines import TARGET
from tests.support.fake_exec import ExecAnswer, ExecCall
from tests.support.kube import FakeKube
from tests.support.objects import CONTAINER, put_pod

NO_PROGRAM = 'exec: "nvidia-smi": executable file not found in $PATH: unknown'


def runs(kube: FakeKube, *, slots: int = 2) -> SmiRuns:
    return SmiRuns(kube, timeout=timedelta(seconds=30), slots=asyncio.Semaphore(slots))


def pod(kube: FakeKube, node: str = "n1") -> TargetPod:
    found = TargetPod.from_pod(put_pod(kube, node), container=CONTAINER)
    assert found is not None
    return found


async def test_the_command_of_the_target_is_run_in_its_container(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(stdout=b"out", stderr=b"err", exit_code=14)
    result = await runs(kube).run("n1", TARGET, pod(kube))
    assert result is not None
    assert (result.stdout, result.stderr, result.exit_code) == (b"out", b"err", 14)
    (call,) = kube.exec.calls
    assert (call.pod, call.container) == ("plugin-n1", CONTAINER)
    assert call.command == ("nvidia-smi", "-q", "-x")


async def test_the_path_of_gke_is_tried_where_the_program_is_not_in_path(kube: FakeKube) -> None:
    def decide(call: ExecCall) -> ExecAnswer:
        if call.command[0] == GKE_NVIDIA_SMI:
            return ExecAnswer(stdout=b"out")
        return ExecAnswer(failure=NO_PROGRAM)

    kube.exec.decide = decide
    result = await runs(kube).run("n1", TARGET, pod(kube))
    assert result is not None
    assert result.stdout == b"out"
    assert [call.command for call in kube.exec.calls] == [
        ("nvidia-smi", "-q", "-x"),
        (GKE_NVIDIA_SMI, "-q", "-x"),
    ]


async def test_the_error_names_the_first_of_two_missing_programs(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(failure=NO_PROGRAM)
    with pytest.raises(CommandNotFound, match="`nvidia-smi -q -x`"):
        await runs(kube).run("n1", TARGET, pod(kube))
    assert len(kube.exec.calls) == 2


async def test_a_command_that_the_user_set_has_no_other_path(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(failure=NO_PROGRAM)
    target = replace(TARGET, command=("chroot", "/host", "nvidia-smi", "-q", "-x"))
    with pytest.raises(CommandNotFound):
        await runs(kube).run("n1", target, pod(kube))
    assert [call.command for call in kube.exec.calls] == [target.command]


async def test_a_stopped_run_returns_nothing(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(hang=True)
    smi = runs(kube)
    run = asyncio.create_task(smi.run("n1", TARGET, pod(kube)))
    await asyncio.sleep(1)
    assert list(smi.under_way) == ["n1"]
    smi.stop("n2")
    smi.stop("n1")
    assert await run is None
    assert list(smi.under_way) == []
    assert kube.exec.running == 0


async def test_cancelling_the_caller_stops_the_run(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(hang=True)
    smi = runs(kube)
    run = asyncio.create_task(smi.run("n1", TARGET, pod(kube)))
    await asyncio.sleep(1)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await asyncio.sleep(1)
    assert kube.exec.running == 0
    assert smi.under_way == ()


async def test_no_more_run_at_a_time_than_there_are_slots(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(delay=5)
    smi = runs(kube, slots=2)
    names = [f"n{number}" for number in range(5)]
    results = await asyncio.gather(*(smi.run(name, TARGET, pod(kube, name)) for name in names))
    assert None not in results
    assert kube.exec.most == 2


async def test_a_run_that_times_out_frees_its_slot(kube: FakeKube) -> None:
    kube.exec.answer = ExecAnswer(hang=True)
    smi = runs(kube, slots=1)
    with pytest.raises(ExecTimedOut):
        await smi.run("n1", TARGET, pod(kube))
    kube.exec.answer = ExecAnswer(stdout=b"out")
    assert await smi.run("n1", TARGET, pod(kube)) is not None


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (ExecTimedOut, FailureReason.TIMED_OUT),
        (ExecForbidden, FailureReason.FORBIDDEN),
        (ExecPodGone, FailureReason.EXEC_FAILED),
        (CommandNotFound, FailureReason.NVIDIA_SMI_NOT_FOUND),
        (ExecTooLarge, FailureReason.UNPARSABLE),
        (ExecIncomplete, FailureReason.INCOMPLETE),
        (ExecFailed, FailureReason.EXEC_FAILED),
    ],
)
def test_every_error_of_an_exec_has_a_reason(kind: type[ExecError], reason: FailureReason) -> None:
    error = kind("it did not work")
    failure = read_error(error)
    assert (failure.reason, failure.message) == (reason, "it did not work")
    assert failure.__cause__ is error


def test_a_reason_that_is_known_stays() -> None:
    error = ReadError(FailureReason.UNPARSABLE, "no XML")
    assert read_error(error) is error
