"""Runs nvidia-smi in target pods. Each run can be stopped by the name of its node."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from gpuid_operator.kube.client import KubeClient
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
from gpuid_operator.kube.exec import ExecResult, pod_exec
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.failure import FailureReason, ReadError
from gpuid_operator.plan.smi import MAX_OUTPUT_BYTES
from gpuid_operator.plan.target import GKE_NVIDIA_SMI, NVIDIA_SMI, Target

_REASONS: Final[dict[type[ExecError], FailureReason]] = {
    ExecTimedOut: FailureReason.TIMED_OUT,
    ExecForbidden: FailureReason.FORBIDDEN,
    ExecPodGone: FailureReason.EXEC_FAILED,
    CommandNotFound: FailureReason.NVIDIA_SMI_NOT_FOUND,
    ExecTooLarge: FailureReason.UNPARSABLE,
    ExecIncomplete: FailureReason.INCOMPLETE,
    ExecFailed: FailureReason.EXEC_FAILED,
}


class SmiRuns:
    """The runs under way, at most one per node."""

    def __init__(self, client: KubeClient, *, timeout: timedelta, slots: asyncio.Semaphore) -> None:
        """`slots` bounds the execs of the whole process."""
        self._client = client
        self._timeout = timeout.total_seconds()
        self._slots = slots
        self._running: dict[str, asyncio.Task[ExecResult]] = {}

    @property
    def under_way(self) -> tuple[str, ...]:
        """The names of the nodes on which nvidia-smi runs now."""
        return tuple(self._running)

    def stop(self, node: str) -> None:
        """Stop the run on a node, if there is one."""
        if node in self._running:
            self._running[node].cancel()

    async def run(self, node: str, target: Target, pod: TargetPod) -> ExecResult | None:
        """Run the target's command. Returns its output, None if `stop` stopped it.

        Raises ExecError, and as `pod_exec`.
        """
        task = self._running[node] = asyncio.create_task(self._execute(target, pod))
        try:
            await asyncio.wait([task])
            return None if task.cancelled() else task.result()
        finally:
            task.cancel()
            del self._running[node]

    async def _execute(self, target: Target, pod: TargetPod) -> ExecResult:
        """Execute the target's command. If its program is not in PATH, try the path on GKE; a
        preset has a target of its own for that."""
        commands = [target.command]
        if target.command == NVIDIA_SMI and target.preset is None:
            commands.append((GKE_NVIDIA_SMI, *NVIDIA_SMI[1:]))
        missing: CommandNotFound | None = None
        for command in commands:
            try:
                async with self._slots:
                    return await pod_exec(
                        self._client,
                        namespace=pod.namespace,
                        pod=pod.name,
                        container=pod.container,
                        command=command,
                        timeout=self._timeout,
                        max_bytes=MAX_OUTPUT_BYTES,
                    )
            except CommandNotFound as error:
                missing = missing or error
        assert missing is not None  # noqa: S101 - there is at least one command
        raise missing


def read_error(error: ReadError | ExecError) -> ReadError:
    """The reason that the status shows for a failed run, with the run's error as its cause."""
    if isinstance(error, ReadError):
        return error
    failure = ReadError(_REASONS[type(error)], error.message)
    failure.__cause__ = error
    return failure
