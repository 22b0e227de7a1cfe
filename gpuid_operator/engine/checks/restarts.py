"""Restarts the pods of failed checks, one at a time and within the guards."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Container
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.checks.result_store import CheckResultStore
from gpuid_operator.engine.core.options import Timings
from gpuid_operator.engine.core.wall_clock import loop_start
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Conflict, KubeError
from gpuid_operator.kube.events import EventType
from gpuid_operator.kube.pods import TargetPod, delete_pod
from gpuid_operator.plan.restarts import (
    ClusterChecks,
    Refusal,
    RestartCase,
    refusal,
    summarize,
)
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_HOUR: Final = timedelta(hours=1)

SUMMARY_AGE: Final = timedelta(seconds=2)
"""Age up to which a summary of all checks serves to refuse a restart. To make one takes longer the
larger the cluster is; where a check fails on every node, each of them asks."""


class Restarts:
    """Deletes the pods of failed checks. Each restart and each refusal is an Event."""

    def __init__(
        self,
        client: KubeClient,
        *,
        results: CheckResultStore,
        per_hour: int,
        timings: Timings,
        clock: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._results = results
        self._per_hour = per_hour
        self._timings = timings
        self._clock = clock
        self._lock = asyncio.Lock()
        self._recent: deque[tuple[str, timedelta]] = deque()
        """Node and time of each restart, on the loop's clock."""
        self._logged: dict[tuple[str, str], str] = {}
        self._summary: tuple[datetime, ClusterChecks] | None = None

    def passed(self, node: str, name: str) -> None:
        """The check passes: log its next refusal again."""
        self._logged.pop((node, name), None)

    def prune(self, nodes: Container[str]) -> None:
        """Forget all other nodes."""
        self._logged = {key: message for key, message in self._logged.items() if key[0] in nodes}

    async def restart(self, job: CheckJob, pod: TargetPod) -> timedelta | None:
        """Restart the pod of a failed check if the guards allow it.

        Returns how long to wait before the check runs again, where a guard refuses the restart
        for now; None: the check runs again when it is due. Raises KubeError if the restart could
        not be stored.
        """
        async with self._lock:
            now = self._clock()
            if job not in self._results.jobs(pod.node):
                return None  # suspended or removed meanwhile
            refused = self._refusal(job, pod, now, known=self._recent_summary(now))
            if refused is None:
                # Another instance may have restarted a pod.
                await self._results.refresh()
                refused = self._refusal(job, pod, now, known=self._summarize(now))
            if refused is not None:
                self._report_refusal(job, pod, refused)
                return refused.again
            # Stored before the deletion: a crash in between costs a restart and never adds one.
            if await self._results.record_restart(pod.node, job.name, now=now):
                self._recent.append((pod.node, now - loop_start(now)))
                self._summary = None
                await self._delete(job, pod)
            return None

    def _recent_summary(self, now: datetime) -> ClusterChecks:
        """A summary that is at most SUMMARY_AGE old."""
        if self._summary is not None:
            made, known = self._summary
            if timedelta(0) <= now - made < SUMMARY_AGE:
                return known
        return self._summarize(now)

    def _summarize(self, now: datetime) -> ClusterChecks:
        known = summarize(self._results.known(), now=now, pause=self._timings.restart_pause)
        self._summary = (now, known)
        return known

    def _refusal(
        self, job: CheckJob, pod: TargetPod, now: datetime, *, known: ClusterChecks
    ) -> Refusal | None:
        start = loop_start(now)
        while self._recent and now - (start + self._recent[0][1]) >= _HOUR:
            self._recent.popleft()
        case = RestartCase(
            node=pod.node,
            name=job.name,
            controlled=pod.controlled,
            mine=self._results.check(pod.node, job.name),
            known=known,
            recent=[(node, start + at) for node, at in self._recent],
            per_hour=self._per_hour,
            pause=self._timings.restart_pause,
            under_way_pause=self._timings.restart_retry,
        )
        return refusal(case, now=now)

    def _report_refusal(self, job: CheckJob, pod: TargetPod, refused: Refusal) -> None:
        message = f"check {job.name} failed; not restarting pod {pod.name}: {refused.words}"
        self._record_event(pod, refused.reason, message)
        if self._logged.get((pod.node, job.name)) != refused.words:
            self._logged[pod.node, job.name] = refused.words
            _log.warning(
                "refused to restart pod",
                node=pod.node,
                pod=pod.name,
                check=job.name,
                reason=refused.reason,
                why=refused.words,
            )

    async def _delete(self, job: CheckJob, pod: TargetPod) -> None:
        try:
            await delete_pod(self._client, namespace=pod.namespace, name=pod.name, uid=pod.uid)
        except Conflict:
            return  # replaced meanwhile: another pod has the name
        except KubeError as error:
            message = f"failed to restart pod {pod.name}: {error.message}"
            self._record_event(pod, "RestartFailed", message)
            _log.error(
                "failed to restart pod",
                node=pod.node,
                pod=pod.name,
                check=job.name,
                error=error.message,
            )
            return
        message = (
            f"check {job.name} failed; deleted pod {pod.name} so that its controller replaces it"
        )
        self._record_event(pod, "PodRestarted", message)
        _log.warning("restarted pod", node=pod.node, pod=pod.name, check=job.name)

    def _record_event(self, pod: TargetPod, reason: str, message: str) -> None:
        self._results.record_event(pod.node, reason=reason, message=message, type=EventType.WARNING)
