"""Runs a check once in a container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gpuid_operator.api.meta import MAX_CHECK_OUTPUT
from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import (
    CommandNotFound,
    ExecError,
    ExecFailed,
    ExecIncomplete,
    ExecTimedOut,
    ExecTooLarge,
    KubeError,
)
from gpuid_operator.kube.exec import pod_exec
from gpuid_operator.kube.pods import TargetPod

SHELL: Final = ("/bin/sh", "-c")
MAX_OUTPUT: Final = 256 * 1024
"""Bytes of output that a run may write; the status keeps 4 KiB each of stdout and stderr."""


@dataclass(frozen=True, slots=True)
class CheckOutput:
    """The outcome of a run."""

    exit_code: int | None
    """None if the command did not end by itself or did not start."""
    stdout: bytes
    stderr: bytes
    """Without an exit code it starts with the reason."""
    hung: bool = False
    """The command did not end in time and may still run."""

    @property
    def passed(self) -> bool:
        return self.exit_code == 0

    @property
    def blames_pod(self) -> bool:
        """Whether a restart of the pod may help. It does not help against a missing shell or too
        much output."""
        return self.hung or self.exit_code not in (0, None)


class CheckInconclusive(Exception):  # noqa: N818 - says what happened
    """A run that says nothing about the node. The caller runs the check again."""

    def __init__(self, message: str, output: CheckOutput | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.output = output
        """What counts as the outcome if the error persists; None: the error never counts."""


async def execute(client: KubeClient, job: CheckJob, pod: TargetPod) -> CheckOutput:
    """Run a check once. Raises CheckInconclusive.

    exec                                                   | outcome
    -------------------------------------------------------|---------------------------------------
    ended with an exit code                                | output
    time-out, too much output, no /bin/sh in the container | output without exit code
    broke off, or failed in the container runtime          | inconclusive; output if this persists
    pod gone, forbidden, API server unreachable            | inconclusive
    """
    try:
        result = await pod_exec(
            client,
            namespace=pod.namespace,
            pod=pod.name,
            container=pod.container,
            command=(*SHELL, job.command),
            timeout=job.timeout.total_seconds(),
            max_bytes=MAX_OUTPUT,
        )
    except (ExecTimedOut, ExecTooLarge, CommandNotFound) as error:
        return _without_exit_code(error, job.command)
    except (ExecIncomplete, ExecFailed) as error:
        raise CheckInconclusive(error.message, _without_exit_code(error, job.command)) from error
    except KubeError as error:
        raise CheckInconclusive(error.message) from error
    except OSError as error:
        raise CheckInconclusive(str(error)) from error
    return CheckOutput(result.exit_code, result.stdout, result.stderr)


def _without_exit_code(error: ExecError, command: str) -> CheckOutput:
    """The output so far, with the reason at the start of stderr."""
    stderr = error.stderr[: MAX_CHECK_OUTPUT // 2]
    # A command of many lines would push the reason out of what the status keeps.
    prefix = f"`{' '.join((*SHELL, command))[:120]}` in "
    reason = error.message.removeprefix(prefix).encode() + (b"\n" + stderr if stderr else b"")
    return CheckOutput(None, error.stdout, reason, hung=isinstance(error, ExecTimedOut))
