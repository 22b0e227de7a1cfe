"""Runs the checks of policies: which pods to watch, and which nodes to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

from gpuid_operator.engine.checks.inventory_result_store import InventoryResultStore
from gpuid_operator.engine.checks.pod_list import list_check_pods
from gpuid_operator.engine.checks.pods import CheckPods
from gpuid_operator.engine.checks.worker import CheckWorker
from gpuid_operator.engine.core.background import Loop
from gpuid_operator.engine.core.options import Timings
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_RELIST_PAUSE: Final = 5.0
"""Seconds until pods that could not be listed are listed again."""


class PolicyChecks:
    """Runs the checks of the effective policies, if the operator allows policies to run checks."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        status_writer: StatusWriter,
        recorder: EventRecorder,
        slots: asyncio.Semaphore,
        workers: int,
        allowed: bool,
        per_hour: int,
        timings: Timings,
        clock: Callable[[], datetime],
    ) -> None:
        """`slots` and `workers` are those of the process. Checks use at most half of the workers,
        so that reads continue if checks hang. `per_hour` limits the restarts."""
        self._client = client
        self._state = state
        self._allowed = allowed
        self._pods = CheckPods()
        self._results = InventoryResultStore(
            recorder, state=state, status_writer=status_writer, clock=clock
        )
        self._worker = CheckWorker(
            client,
            pods=self._pods,
            results=self._results,
            slots=slots,
            workers=max(1, workers // 2) if allowed else 0,
            per_hour=per_hour,
            timings=timings,
            clock=clock,
        )
        self._changed = asyncio.Event()
        self._unlisted = False
        self.sources_changed = asyncio.Event()
        """Set when `sources` changes."""

    @property
    def sources(self) -> frozenset[PodSelector]:
        """The pods to watch."""
        return self._pods.sources

    def loops(self) -> list[Loop]:
        """The tasks to run until the engine stops."""
        return [self._follow_forever, *self._worker.loops()] if self._allowed else []

    def pod_event(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> set[str]:
        """Store a pod that was added, changed or deleted.

        Returns the nodes that are not known yet: their checks wait until the caller has fetched
        the Node.
        """
        nodes = self._pods.put(source, body, deleted=deleted)
        self._worker.enqueue(nodes)
        return {node for node in nodes if node not in self._state.nodes}

    def enqueue(self, nodes: Iterable[str]) -> None:
        """Look for due checks on these nodes."""
        if self._allowed:
            self._worker.enqueue(nodes)

    def policies_changed(self) -> None:
        """Watch the pods of the current checks soon."""
        self._changed.set()

    def stop_unwanted(self) -> None:
        """Cancel the runs of checks that their nodes no longer have."""
        self._worker.stop_unwanted()

    async def relist(self) -> None:
        """List the pods of all checks, to correct what events did not report."""
        await self._list()
        nodes = self._pods.nodes()
        self._worker.prune(nodes)
        self._worker.enqueue(nodes)

    async def follow(self) -> None:
        """Follow the pods of the policies' checks, and look for due checks on their nodes."""
        if not self._allowed:
            return
        self._changed.clear()
        before = self.sources
        self._unlisted = self._pods.follow(self._results.every_job()) or self._unlisted
        if self._unlisted:
            self._unlisted = not await self._list()
            if self._unlisted:
                asyncio.get_running_loop().call_later(_RELIST_PAUSE, self._changed.set)
        self._worker.enqueue(self._pods.nodes())
        if self.sources != before:
            self.sources_changed.set()

    async def _follow_forever(self) -> None:
        while True:
            await self._changed.wait()
            await self.follow()

    async def _list(self) -> bool:
        """List the pods of each selector. Returns whether all lists succeeded: a selector that
        fails must not affect the others."""
        complete = True
        for source in self.sources:
            try:
                await list_check_pods(self._client, self._pods, source)
            except KubeError as error:
                complete = False
                _log.warning(
                    "failed to list the pods of a check; retrying",
                    namespace=source.namespace,
                    selector=source.selector,
                    error=error.message,
                )
        return complete
