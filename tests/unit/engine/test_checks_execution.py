"""One run of a check: which errors are an outcome, at once or if they persist."""

from __future__ import annotations

import pytest

from gpuid_operator.api.meta import MAX_CHECK_OUTPUT
from gpuid_operator.engine.checks.execution import (
    MAX_OUTPUT,
    CheckInconclusive,
    CheckOutput,
    execute,
)
from gpuid_operator.kube import errors
from gpuid_operator.kube.pods import TargetPod
from tests.support.checks import job
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube, forbidden, server_error, unreachable
from tests.support.objects import CONTAINER, put_pod


def target(kube: FakeKube) -> TargetPod:
    pod = TargetPod.from_pod(put_pod(kube, "n1"), container=CONTAINER)
    assert pod is not None
    return pod


async def ran(kube: FakeKube, answer: ExecAnswer, command: str = "x") -> CheckOutput:
    kube.exec.answer = answer
    return await execute(kube, job(command=command), target(kube))


async def unanswered(kube: FakeKube, answer: ExecAnswer) -> CheckInconclusive:
    with pytest.raises(CheckInconclusive) as found:
        await ran(kube, answer)
    return found.value


async def test_the_shell_of_the_container_runs_the_script(kube: FakeKube) -> None:
    await ran(kube, ExecAnswer(), "echo a\necho b")
    (call,) = kube.exec.calls
    assert (call.pod, call.container) == ("plugin-n1", CONTAINER)
    assert call.command == ("/bin/sh", "-c", "echo a\necho b")


@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
async def test_an_exit_code_is_the_outcome(kube: FakeKube, code: int) -> None:
    done = await ran(kube, ExecAnswer(stdout=b"out", stderr=b"err", exit_code=code))
    assert done == CheckOutput(code, b"out", b"err")
    assert done.passed is (code == 0)
    assert done.blames_pod is (code != 0)


async def test_a_command_that_hangs_fails_and_blames_the_pod(kube: FakeKube) -> None:
    done = await ran(kube, ExecAnswer(hang=True))
    assert done.exit_code is None and done.hung and not done.passed and done.blames_pod
    assert b"did not end within 30 s" in done.stderr


async def test_too_much_output_fails_and_does_not_blame_the_pod(kube: FakeKube) -> None:
    done = await ran(kube, ExecAnswer(stdout=b"x" * (MAX_OUTPUT + 1)))
    assert done.exit_code is None and not done.hung and not done.passed and not done.blames_pod
    assert f"more than {MAX_OUTPUT} bytes".encode() in done.stderr
    assert len(done.stdout) == MAX_OUTPUT


@pytest.mark.parametrize(
    "answer",
    [
        ExecAnswer(failure='exec: "/bin/sh": stat /bin/sh: no such file or directory'),
        ExecAnswer(
            exit_code=126,
            stdout=b"OCI runtime exec failed: exec: stat /bin/sh: no such file or directory",
        ),
    ],
)
async def test_a_container_without_shell_fails_and_is_not_blamed(
    kube: FakeKube, answer: ExecAnswer
) -> None:
    done = await ran(kube, answer)
    assert done.exit_code is None and not done.passed and not done.blames_pod
    assert b"no such program" in done.stderr


async def test_an_exec_that_breaks_off_counts_if_it_persists(kube: FakeKube) -> None:
    found = await unanswered(kube, ExecAnswer(stdout=b"half", stderr=b"so far", cut=True))
    assert found.output is not None
    assert found.output.exit_code is None and found.output.stdout == b"half"
    assert found.output.stderr.endswith(b"\nso far")
    assert not found.output.blames_pod


async def test_an_error_of_the_runtime_counts_if_it_persists(kube: FakeKube) -> None:
    found = await unanswered(kube, ExecAnswer(failure="cannot allocate memory"))
    assert found.output is not None and b"cannot allocate memory" in found.output.stderr


@pytest.mark.parametrize(
    "answer",
    [
        ExecAnswer(failure='container not found ("c")'),
        ExecAnswer(refusal=forbidden()),
        ExecAnswer(refusal=unreachable()),
        ExecAnswer(refusal=OSError("the connection was reset")),
        ExecAnswer(
            refusal=errors.NotFound("n", status=404, reason="NotFound", server_message="no pod")
        ),
    ],
)
async def test_an_error_outside_the_node_never_counts(kube: FakeKube, answer: ExecAnswer) -> None:
    found = await unanswered(kube, answer)
    assert found.output is None
    assert found.message


async def test_a_refusal_of_the_kubelet_counts_if_it_persists(kube: FakeKube) -> None:
    found = await unanswered(kube, ExecAnswer(refusal=server_error(500)))
    assert found.output is not None and found.output.exit_code is None


async def test_stderr_starts_with_the_reason_and_omits_the_command(kube: FakeKube) -> None:
    command = "line\n" * 400
    answer = ExecAnswer(stderr=b"e" * 2 * MAX_CHECK_OUTPUT, hang=False, cut=True)
    kube.exec.answer = answer
    with pytest.raises(CheckInconclusive) as found:
        await execute(kube, job(command=command), target(kube))
    said = found.value.output
    assert said is not None
    assert said.stderr.startswith(b"gpu-operator/plugin-n1, container nvidia-device-plugin was ")
    assert said.stderr.endswith(b"\n" + b"e" * (MAX_CHECK_OUTPUT // 2))
    assert said.stderr.count(b"e" * 100) <= MAX_CHECK_OUTPUT // 200
