"""Restarts of the pods of failed checks, one at a time and within the guards."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Container
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.engine.checks.job import CheckJob, CheckResultStore
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Conflict, KubeError
from gpuid_operator.kube.events import EventType
from gpuid_operator.kube.pods import TargetPod, delete_pod
from gpuid_operator.plan.restarts import Refusal, RestartCase, refusal
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_HOUR: Final = timedelta(hours=1)


class Restarts:
    """Deletes pods whose check failed, or says why it does not; either way is an Event."""

    def __init__(
        self,
        client: KubeClient,
        *,
        results: CheckResultStore,
        per_hour: int,
        clock: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._results = results
        self._per_hour = per_hour
        self._clock = clock
        self._one = asyncio.Lock()
        self._done: deque[tuple[str, datetime]] = deque()
        self._told: dict[tuple[str, str], str] = {}

    def passed(self, node: str, name: str) -> None:
        """The check passes: the next refusal is news again."""
        self._told.pop((node, name), None)

    def prune(self, nodes: Container[str]) -> None:
        """Drop what is remembered of all other nodes."""
        self._told = {key: words for key, words in self._told.items() if key[0] in nodes}

    async def enqueue(self, job: CheckJob, node: str, pod: TargetPod) -> timedelta | None:
        """Restart the pod of a failed check, if the guards let it.

        When to run the check again for the sake of a restart that was refused for now; None where
        its own time will do. Raises KubeError when the restart could not be noted.
        """
        async with self._one:
            now = self._clock()
            if job not in self._results.jobs(node):
                return None  # suspended, or not wanted any more
            refused = self._refusal(job, node, pod, now)
            if refused is None:
                # Another instance may have a restart under way.
                await self._results.refresh()
                refused = self._refusal(job, node, pod, now)
            if refused is not None:
                self._say_refused(job, node, pod, refused)
                return refused.again
            # First the note: a crash in between costs a restart, never one too many.
            if await self._results.record_restart(node, job.name, now=now):
                self._done.append((node, now))
                await self._delete(job, node, pod)
            return None

    def _refusal(self, job: CheckJob, node: str, pod: TargetPod, now: datetime) -> Refusal | None:
        while self._done and now - self._done[0][1] >= _HOUR:
            self._done.popleft()
        case = RestartCase(
            node=node,
            name=job.name,
            controlled=pod.controlled,
            known=self._results.known(),
            recent=self._done,
            per_hour=self._per_hour,
        )
        return refusal(case, now=now)

    def _say_refused(self, job: CheckJob, node: str, pod: TargetPod, refused: Refusal) -> None:
        message = f"check {job.name} failed; pod {pod.name} is not restarted: {refused.words}"
        self._results.record_event(
            node, reason=refused.reason, message=message, type=EventType.WARNING
        )
        if self._told.get((node, job.name)) != refused.words:
            self._told[node, job.name] = refused.words
            _log.warning(
                "a pod is not restarted",
                node=node,
                pod=pod.name,
                check=job.name,
                reason=refused.reason,
                why=refused.words,
            )

    async def _delete(self, job: CheckJob, node: str, pod: TargetPod) -> None:
        try:
            await delete_pod(self._client, namespace=pod.namespace, name=pod.name, uid=pod.uid)
        except Conflict:
            return  # another pod has its name: it was replaced meanwhile
        except KubeError as error:
            message = f"pod {pod.name} could not be restarted: {error.message}"
            self._results.record_event(
                node, reason="RestartFailed", message=message, type=EventType.WARNING
            )
            _log.error(
                "a pod could not be restarted",
                node=node,
                pod=pod.name,
                check=job.name,
                error=error.message,
            )
            return
        message = f"check {job.name} failed; pod {pod.name} is deleted to be started anew"
        self._results.record_event(
            node, reason="PodRestarted", message=message, type=EventType.WARNING
        )
        _log.warning("a pod is restarted", node=node, pod=pod.name, check=job.name)
