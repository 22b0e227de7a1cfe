"""Reads nodes: decides what is due, runs nvidia-smi, hands what came out to the committer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.api.inventory import InventoryStatus, Source
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS
from gpuid_operator.engine.reading.smi_run import SmiRuns, read_error
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.inventory_cache import CachedInventory
from gpuid_operator.engine.state.nodes import node_info
from gpuid_operator.engine.writing.node_labels import NodeLabeller
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import (
    ExecError,
    ExecPodGone,
    KubeError,
    NotFound,
)
from gpuid_operator.kube.nodes import NodeFacts, get_node
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan import status as plan
from gpuid_operator.plan.failure import FailureReason, ReadError
from gpuid_operator.plan.removals import CONFIRMATION
from gpuid_operator.plan.schedule import ReadState, backoff, next_read_at
from gpuid_operator.plan.smi import Reading, parse
from gpuid_operator.plan.status_change import PendingRemovals, StatusChange, StatusContext
from gpuid_operator.plan.target import Target
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

FACTS_AGE: Final = 60.0
"""Seconds for which a node's facts count as those of the moment, if no pod changed since."""

_GONE_TRIES: Final = 3
"""Attempts that find the pod gone before that is a failure: the watch brings the next pod."""


@dataclass(slots=True)
class _Trouble:
    """The failures of a node since its last good read."""

    count: int = 0
    container: str | None = None
    retry_at: datetime | None = None
    hung: bool = False
    request: str | None = None
    """The token of requestedAt that the last of them was for."""


class Reader:
    """Brings one node at a time up to date; the queue sees to it that no node is read twice."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        status_writer: StatusWriter,
        labeller: NodeLabeller,
        metrics: Metrics,
        clock: Callable[[], datetime],
        timeout: timedelta,
        slots: asyncio.Semaphore,
        grace: timedelta = DEFAULT_TIMINGS.pod_grace,
    ) -> None:
        """`slots` bounds the execs of the whole process; `grace` is how long a node may be without
        a target pod."""
        self._grace = grace.total_seconds()
        self._client = client
        self._state = state
        self._inventories = state.inventories
        self._status_writer = status_writer
        self._labeller = labeller
        self._metrics = metrics
        self._clock = clock
        self._runs = SmiRuns(client, timeout=timeout, slots=slots)
        self._troubles: dict[str, _Trouble] = {}
        self._pending_removals: dict[str, PendingRemovals] = {}

    def due(self, name: str) -> datetime | None:
        """When the node is to be read next, as far as is known now."""
        cached = self._inventories.get(name)
        found = self._state.pods.find(name)
        pod = found[1] if found else None
        effective = self._state.effective_policy(name, cached)
        trouble = self._troubles.get(name)
        request = _open_request(cached)
        pending_removals = self._pending_removals.get(name)
        return next_read_at(
            ReadState(
                running=pod is not None,
                ready_container=pod.container_id if pod and pod.ready else None,
                read_container=cached.read_container if cached and not cached.departed else None,
                last_read=cached.last_read if cached else None,
                ok=cached is not None and cached.ready,
                interval=effective.read_interval,
                suspended=effective.suspended,
                # A token that could not be echoed, as nothing could be written, waits like others.
                request_open=request is not None
                and (trouble is None or trouble.request != request),
                failed_container=trouble.container if trouble else None,
                retry_at=trouble.retry_at if trouble else None,
                hung=trouble.hung if trouble else False,
                confirm_at=pending_removals.since + CONFIRMATION if pending_removals else None,
            ),
            node=name,
            now=self._clock(),
        )

    async def process(self, name: str) -> timedelta | None:
        """Do what is due for the node now; the time until it is to be looked at again.

        Raises KubeError when its inventory could not be written.
        """
        found = self._state.pods.find(name)
        if found is None:
            return await self._without_pod(name)
        when = self.due(name)
        if when is not None and when <= self._clock():
            await self._read(name, *found)
            when = self.due(name)
        return None if when is None else when - self._clock()

    def forget(self, name: str) -> None:
        """Drop what is remembered of a node that is gone."""
        self._troubles.pop(name, None)
        self._pending_removals.pop(name, None)

    async def _read(self, name: str, target: Target, pod: TargetPod) -> None:
        request = _open_request(self._inventories.get(name))
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            facts = await self._facts(name)
            result = await self._runs.run(name, target, pod)
            if result is None:
                return
            reading = parse(result.stdout, exit_code=result.exit_code, stderr=result.stderr)
        except (ReadError, ExecError) as error:
            await self._failed(name, pod, read_error(error), request)
            return
        except (KubeError, OSError) as error:
            # Nothing is known of the node by this, and nothing could be written either.
            self._trouble(name, pod, hung=False, request=request)
            self._metrics.reads.labels("Unreachable").inc()
            _log.warning("a node could not be read", node=name, pod=pod.name, error=str(error))
            return
        self._metrics.read_seconds.observe(loop.time() - started)
        self._metrics.reads.labels("Succeeded").inc()
        await self._succeeded(name, pod, reading, facts, request)

    def stop_suspended(self) -> None:
        """End the reads of nodes that are suspended by now."""
        for name in self._runs.under_way:
            if self._state.effective_policy(name, self._inventories.get(name)).suspended:
                self._runs.stop(name)

    async def _facts(self, name: str) -> NodeFacts:
        """The node's facts, fetched since its pods last changed and not long ago.

        They decide whether a missing GPU is gone for certain, so they must not be older than what
        made the read due.
        """
        known = self._state.nodes.get(name)
        now = asyncio.get_running_loop().time()
        if (
            known is not None
            and known.fetched >= self._state.pods.changed(name)
            and now - known.fetched < FACTS_AGE
        ):
            return known.facts
        try:
            facts = await get_node(self._client, name)
        except NotFound:
            self._state.forget_node(name)
            raise ReadError(
                FailureReason.NODE_NOT_FOUND,
                f"the pod says that it runs on node {name}, and there is no such Node",
            ) from None
        self._state.nodes.put(facts)
        return facts

    async def _succeeded(
        self, name: str, pod: TargetPod, reading: Reading, facts: NodeFacts, request: str | None
    ) -> None:
        source = Source(
            namespace=pod.namespace,
            pod=pod.name,
            uid=pod.uid,
            container=pod.container,
            container_id=pod.container_id,
        )
        node, now, pending_removals = (
            node_info(facts),
            self._clock(),
            self._pending_removals.get(name),
        )

        def decide(previous: InventoryStatus, context: StatusContext) -> StatusChange:
            return plan.after_read(
                previous,
                reading,
                source=source,
                node=node,
                now=now,
                context=context,
                request=request,
                pending_removals=pending_removals,
            )

        change = await self._status_writer.write(name, decide, create=True)
        self._troubles.pop(name, None)
        self._pending_removals.pop(name, None)
        if change is not None and change.pending_removals is not None:
            self._pending_removals[name] = change.pending_removals
            _log.info(
                "a GPU is missing; a second read will tell whether it is gone",
                node=name,
                missing=len(change.pending_removals.keys),
            )
        await self._labeller.sync(name)

    async def _failed(
        self, name: str, pod: TargetPod, error: ReadError, request: str | None
    ) -> None:
        hung = error.reason is FailureReason.TIMED_OUT
        trouble = self._trouble(name, pod, hung=hung, request=request)
        self._metrics.reads.labels(error.reason.value).inc()
        _log.warning(
            "a node could not be read",
            node=name,
            pod=pod.name,
            reason=error.reason.value,
            error=error.message,
            failures=trouble.count,
        )
        if isinstance(error.__cause__, ExecPodGone) and trouble.count < _GONE_TRIES:
            return
        await self._commit_failure(name, error, request)

    async def _commit_failure(self, name: str, error: ReadError, request: str | None) -> None:
        known = self._state.nodes.get(name)
        node = node_info(known.facts) if known else None
        now = self._clock()

        def decide(previous: InventoryStatus, context: StatusContext) -> StatusChange:
            return plan.after_failure(
                previous,
                reason=error.reason,
                message=error.message,
                node=node,
                now=now,
                context=context,
                request=request,
            )

        await self._status_writer.write(name, decide, create=True)

    def _trouble(self, name: str, pod: TargetPod, *, hung: bool, request: str | None) -> _Trouble:
        trouble = self._troubles.setdefault(name, _Trouble())
        if trouble.container != pod.container_id:
            trouble.count, trouble.container = 0, pod.container_id
        trouble.count += 1
        trouble.hung = hung
        trouble.request = request
        trouble.retry_at = self._clock() + backoff(trouble.count, chance=random.random())  # noqa: S311
        return trouble

    async def _without_pod(self, name: str) -> timedelta | None:
        """The node has no running target pod: it may be gone, or never have had one."""
        cached = self._inventories.get(name)
        if cached is not None and cached.departed and name not in self._state.nodes:
            return None
        loop = asyncio.get_running_loop()
        known = self._state.nodes.get(name)
        changed = self._state.pods.changed(name)
        grace = self._grace if changed else 0.0
        left = changed + grace - loop.time()
        # A pod goes at once, its node perhaps a while later: look when either may have happened.
        if known is None or known.fetched < (changed if left > 0 else changed + grace):
            try:
                self._state.nodes.put(await get_node(self._client, name))
            except NotFound:
                await self._departed(name)
                return None
        facts = self._state.nodes[name].facts
        if (cached is None and not facts.gpu_capacity) or self._state.effective_policy(
            name, cached
        ).suspended:
            return None
        if left > 0:
            return timedelta(seconds=left)
        await self._commit_failure(name, self._no_target(name), _open_request(cached))
        return None

    def _no_target(self, name: str) -> ReadError:
        places = "; ".join(
            f"namespace {target.namespace}, selector {target.selector}"
            for target in self._state.pods.targets
        )
        waiting = self._state.pods.waiting(name)
        what = (
            f"pod {waiting.namespace}/{waiting.name} is there, but its container"
            f" {waiting.container} does not run"
            if waiting
            else f"no pod on this node ({places})"
        )
        return ReadError(
            FailureReason.NO_TARGET_POD,
            f"{what}; nvidia-smi is run in the device plugin's pods: see NAMESPACE,"
            " LABEL_SELECTOR and TARGETS of the operator",
        )

    async def _departed(self, name: str) -> None:
        cached = self._inventories.get(name)
        self._state.forget_node(name)
        self.forget(name)
        if cached is None or cached.departed:
            return
        now = self._clock()
        _log.info("a node is gone", node=name)

        def decide(previous: InventoryStatus, context: StatusContext) -> StatusChange:
            return plan.after_departure(previous, now=now, context=context)

        await self._status_writer.write(name, decide)


def _open_request(cached: CachedInventory | None) -> str | None:
    """The token of requestedAt whose read has not ended yet."""
    if cached is None or cached.request is None or cached.request == cached.handled_request:
        return None
    return cached.request
