"""What this process has tried: the attempts of each check on each node."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace
from datetime import datetime, timedelta

from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.core.jitter import chance
from gpuid_operator.engine.core.wall_clock import loop_start
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.check_due import CheckAttempts


class AttemptCache:
    """The attempts in the current container of each node. Those in an earlier one do not count, and
    neither do runs that were cancelled."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._attempts: dict[tuple[str, str], tuple[CheckAttempts, datetime]] = {}
        """Each with the `loop_start` of its times."""

    def find(self, job: CheckJob, node: str) -> CheckAttempts | None:
        """The attempts in the container that ran the check last, which may be gone. Their times
        are those of the clock as it is now."""
        if (node, job.name) not in self._attempts:
            return None
        attempts, start = self._attempts[node, job.name]
        moved = loop_start(self._clock()) - start
        return replace(
            attempts,
            not_before=attempts.not_before and attempts.not_before + moved,
            run_again_at=attempts.run_again_at and attempts.run_again_at + moved,
        )

    def failed(self, job: CheckJob, pod: TargetPod, *, retry: bool = True) -> int:
        """Back off. With `retry` the check runs again afterwards, even if it is not due.

        Returns the number of consecutive failures.
        """
        attempts = self._in(job, pod).backed_off(retry=retry, now=self._clock(), chance=chance())
        self._put(job, pod, attempts)
        return attempts.failures

    def succeeded(self, job: CheckJob, pod: TargetPod) -> None:
        """The result of a run is stored: end the back-off."""
        self._put(job, pod, self._in(job, pod).succeeded())

    def run_again_in(self, wait: timedelta | None, job: CheckJob, pod: TargetPod) -> None:
        """Run the check again after `wait`; None: when it is due."""
        self._put(job, pod, self._in(job, pod).again_in(wait, now=self._clock()))

    def prune(self, nodes: Container[str]) -> None:
        """Forget all other nodes."""
        self._attempts = {key: kept for key, kept in self._attempts.items() if key[0] in nodes}

    def _in(self, job: CheckJob, pod: TargetPod) -> CheckAttempts:
        known = self.find(job, pod.node)
        if known is None or known.container_id != pod.container_id:
            return CheckAttempts(pod.container_id)
        return known

    def _put(self, job: CheckJob, pod: TargetPod, attempts: CheckAttempts) -> None:
        self._attempts[pod.node, job.name] = attempts, loop_start(self._clock())
