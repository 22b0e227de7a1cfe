"""One run of a check in a container: what it answered, or that there was no answer."""

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
"""Bytes that are read of a check's output, of which status keeps 2 × 4 KiB."""


@dataclass(frozen=True, slots=True)
class CheckOutput:
    """What came of a run."""

    exit_code: int | None
    """None where the command did not end by itself, or could not be started."""
    stdout: bytes
    stderr: bytes
    """Where there is no exit code: why, and then what the command wrote."""
    hung: bool = False
    """It did not end in time, and may run still."""

    @property
    def passed(self) -> bool:
        return self.exit_code == 0

    @property
    def blames_pod(self) -> bool:
        """Whether the pod may be what is wrong: a missing shell, or a flood, comes again."""
        return self.hung or self.exit_code not in (0, None)


class CheckInconclusive(Exception):  # noqa: N818 - says what happened
    """The run tells nothing of the node, and is to be repeated."""

    def __init__(self, message: str, answer: CheckOutput | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.answer = answer
        """What counts as the answer if it stays like this; None: nothing ever does."""


async def execute(client: KubeClient, job: CheckJob, pod: TargetPod) -> CheckOutput:
    """Run a check once. Raises CheckInconclusive.

    way of the exec                                         | is
    --------------------------------------------------------|------------------------------
    ended with an exit code                                 | the answer
    time-out, flood of output, no /bin/sh in the container  | an answer without exit code
    broke off, or failed for the runtime's reasons          | one if it happens repeatedly
    pod gone, not allowed, API server away                  | none
    """
    try:
        done = await pod_exec(
            client,
            namespace=pod.namespace,
            pod=pod.name,
            container=pod.container,
            command=(*SHELL, job.command),
            timeout=job.timeout.total_seconds(),
            max_bytes=MAX_OUTPUT,
        )
    except (ExecTimedOut, ExecTooLarge, CommandNotFound) as error:
        return _explained(error, job.command)
    except (ExecIncomplete, ExecFailed) as error:
        raise CheckInconclusive(error.message, _explained(error, job.command)) from error
    except KubeError as error:
        raise CheckInconclusive(error.message) from error
    except OSError as error:
        raise CheckInconclusive(str(error)) from error
    return CheckOutput(done.exit_code, done.stdout, done.stderr)


def _explained(error: ExecError, command: str) -> CheckOutput:
    """An answer that has the reason before what the command wrote to stderr."""
    said = error.stderr[: MAX_CHECK_OUTPUT // 2]
    # The command, perhaps of many lines, would hide what came of it.
    shown = f"`{' '.join((*SHELL, command))[:120]}` in "
    reason = error.message.removeprefix(shown).encode() + (b"\n" + said if said else b"")
    return CheckOutput(None, error.stdout, reason, hung=isinstance(error, ExecTimedOut))
