"""The checks of policies, as the inventory instance runs them: whose pods, which nodes, when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

from gpuid_operator.engine.checks.pod_list import list_check_pods
from gpuid_operator.engine.checks.pods import CheckPods
from gpuid_operator.engine.checks.result_store import InventoryResultStore
from gpuid_operator.engine.checks.worker import CheckWorker
from gpuid_operator.engine.core.background import Loop
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_PAUSE: Final = 5.0


class PolicyChecks:
    """Follows the policies in force; idle where the operator does not allow checks."""

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
        clock: Callable[[], datetime],
    ) -> None:
        """`slots` and `workers` are those of the whole process; checks that hang take at most half
        of them, so that reads go on."""
        self._client = client
        self._state = state
        self._allowed = allowed
        self._pods = CheckPods()
        self._results = InventoryResultStore(
            recorder, state=state, status_writer=status_writer, clock=clock
        )
        self._runs = CheckWorker(
            client,
            pods=self._pods,
            results=self._results,
            slots=slots,
            workers=max(1, workers // 2) if allowed else 0,
            per_hour=per_hour,
            clock=clock,
        )
        self._changed = asyncio.Event()
        self._unlisted = False
        self.sources_changed = asyncio.Event()
        """Set when other pods are to be watched than before."""

    @property
    def sources(self) -> frozenset[PodSelector]:
        """The pods to watch."""
        return self._pods.sources

    def loops(self) -> list[Loop]:
        """What is to go on as long as this is in use."""
        return [self._follow_for_ever, *self._runs.loops()] if self._allowed else []

    def pod_event(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> set[str]:
        """A pod came, changed or went; the nodes of which nothing is known yet, and which are to
        be looked at before their checks can be."""
        nodes = self._pods.put(source, body, deleted=deleted)
        self._runs.add(nodes)
        return {node for node in nodes if node not in self._state.nodes}

    def enqueue(self, nodes: Iterable[str]) -> None:
        """Checks of these nodes may be due, or not wanted any more."""
        if self._allowed:
            self._runs.add(nodes)

    def policies_changed(self) -> None:
        """See to the pods of other checks soon."""
        self._changed.set()

    def stop_unwanted(self) -> None:
        """End what runs and is not wanted any more."""
        self._runs.stop_unwanted()

    async def relist(self) -> None:
        """Repair what no event told: list the pods of all checks."""
        await self._list()
        nodes = self._pods.nodes()
        self._runs.prune(nodes)
        self._runs.add(nodes)

    async def follow(self) -> None:
        """Watch the pods of the policies' checks, and look which of the checks are due."""
        if not self._allowed:
            return
        self._changed.clear()
        before = self.sources
        self._unlisted = self._pods.want(self._results.every_job()) or self._unlisted
        if self._unlisted:
            self._unlisted = not await self._list()
            if self._unlisted:
                asyncio.get_running_loop().call_later(_PAUSE, self._changed.set)
        self._runs.add(self._pods.nodes())
        if self.sources != before:
            self.sources_changed.set()

    async def _follow_for_ever(self) -> None:
        while True:
            await self._changed.wait()
            await self.follow()

    async def _list(self) -> bool:
        """Whether all could be listed; what one policy asks for wrongly is no trouble of others."""
        good = True
        for source in self.sources:
            try:
                await list_check_pods(self._client, self._pods, source)
            except KubeError as error:
                good = False
                _log.warning(
                    "the pods of a check were not listed",
                    namespace=source.namespace,
                    selector=source.selector,
                    error=error.message,
                )
        return good
