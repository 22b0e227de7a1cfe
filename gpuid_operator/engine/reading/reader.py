"""Reads nodes: decides whether a read is due, runs nvidia-smi, and writes what came of it.

A read ends in one of four ways: with facts, with a reason why there are none (`Ready=False`), with
nothing where the API server did not answer or the run was stopped, or with a second read to come,
where a GPU is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from gpuid_operator.api.inventory import Source
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS
from gpuid_operator.engine.core.wall_clock import loop_start
from gpuid_operator.engine.reading.departure import Departures
from gpuid_operator.engine.reading.node_fetcher import NodeFetcher
from gpuid_operator.engine.reading.read_failures import FailureLog
from gpuid_operator.engine.reading.smi_run import SmiRuns, read_error
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.node_view import NodeView
from gpuid_operator.engine.state.nodes import node_info
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import ExecError, ExecPodGone, KubeError
from gpuid_operator.kube.nodes import NodeFacts
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan import status as plan
from gpuid_operator.plan.failure import FailureReason, ReadError
from gpuid_operator.plan.removals import CONFIRMATION
from gpuid_operator.plan.schedule import ReadState, next_read_at, right_time
from gpuid_operator.plan.smi import Reading, parse
from gpuid_operator.plan.status_change import PendingRemovals
from gpuid_operator.plan.target import Target
from gpuid_operator.plan.target_choice import no_program_error
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

_GONE_TRIES: Final = 3
"""Reads in a row that find no pod before that is a failure: usually the watch brings the next pod
first."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One read of one node."""

    node: str
    target: Target
    pod: TargetPod
    request: str | None
    """The token of `requestedAt` that it answers."""


class Reader:
    """Brings one node at a time up to date; the work queue ensures that no node is read twice at
    the same time."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        status_writer: StatusWriter,
        metrics: Metrics,
        clock: Callable[[], datetime],
        timeout: timedelta,
        slots: asyncio.Semaphore,
        grace: timedelta = DEFAULT_TIMINGS.pod_grace,
    ) -> None:
        """`slots` bounds the execs of the whole process; `grace` is how long a node may be without
        a target pod."""
        self._state = state
        self._status_writer = status_writer
        self._metrics = metrics
        self._clock = clock
        self._runs = SmiRuns(client, timeout=timeout, slots=slots)
        self._fetcher = NodeFetcher(client, state=state)
        self._departures = Departures(
            state=state,
            fetcher=self._fetcher,
            status_writer=status_writer,
            clock=lambda: right_time(clock(), server=client.server_time),
            grace=grace,
        )
        self._failures = FailureLog(metrics)
        self._pending_removals: dict[str, tuple[PendingRemovals, datetime]] = {}
        """Each with the `loop_start` of its `since`."""

    async def process(self, view: NodeView) -> timedelta | None:
        """Do what is due for a node now. Returns the time until something else may be due.

        Raises KubeError if its inventory could not be written.
        """
        due = self.due(view)
        while view.target is not None and due is not None and due <= self._clock():
            target = self._state.target_for_read(view.name) or view.target
            self._state.read_begins(view.name)
            again = await self._read(_Attempt(view.name, *target, view.open_request))
            view = self._state.view(view.name)
            due = self.due(view)
            if not again:
                return None if due is None else due - self._clock()
        if view.target is None or (due is None and self._read_state(view).lacks_container):
            wait = await self._departures.process(view)
            if view.name not in self._state.nodes:
                self.forget(view.name)
            return wait
        return None if due is None else due - self._clock()

    def forget(self, name: str) -> None:
        """Drop what is remembered of a node that is gone."""
        self._forget_outcome(name)
        self._state.duplicates.forget(name)

    def _forget_outcome(self, name: str) -> None:
        """Drop what the next good read settles."""
        self._failures.clear(name)
        self._pending_removals.pop(name, None)

    def stop_suspended(self) -> None:
        """Stop the runs on nodes that are suspended by now."""
        for name in self._runs.under_way:
            if self._state.view(name).suspended:
                self._runs.stop(name)

    def due(self, view: NodeView) -> datetime | None:
        """When the next read of a node is due, as far as is known now."""
        return next_read_at(self._read_state(view), node=view.name, now=self._clock())

    def _read_state(self, view: NodeView) -> ReadState:
        pod = view.target[1] if view.target else None
        failures = self._failures.get(view.name)
        # A departed node that returns is read like a new one.
        known = None if view.departed else view.inventory
        now = self._clock()
        removals = self._removals(view.name, now)
        # A request whose failure could not be written stays open and waits for the back-off, too.
        tried = failures is not None and failures.request == view.open_request
        reread_in = self._state.reread_in(view)
        return ReadState(
            container=pod.container_id if pod else None,
            ready=pod is not None and pod.ready,
            read_container=known.read_container if known else None,
            last_read=known.last_read if known else None,
            ok=known is not None and known.ready,
            interval=view.policy.read_interval,
            suspended=view.suspended,
            request_open=view.open_request is not None and not tried,
            failed_container=failures.container if failures else None,
            retry_at=loop_start(now) + failures.retry_at if failures else None,
            hung=failures is not None and failures.hung,
            confirm_at=removals.since + CONFIRMATION if removals else None,
            reread_at=None if reread_in is None else now + timedelta(seconds=reread_in),
        )

    async def _read(self, attempt: _Attempt) -> bool:
        """Returns whether the node has another target to try, as this one has no nvidia-smi."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            facts = await self._facts(attempt)
            view = self._state.view(attempt.node)
            if view.skip is not None or view.suspended:
                return False  # by a policy that selects the labels which were fetched just now
            result = await self._runs.run(attempt.node, attempt.target, attempt.pod)
            reading = None  # of a run that was stopped, as the node is suspended
            if result is not None:
                reading = parse(result.stdout, exit_code=result.exit_code, stderr=result.stderr)
        except (ReadError, ExecError) as error:
            failure = read_error(error)
            if failure.reason is FailureReason.NVIDIA_SMI_NOT_FOUND:
                return await self._program_missing(attempt, failure)
            await self._fail(attempt, failure)
        except (KubeError, OSError) as error:
            # This says nothing about the node, and nothing could be written either.
            self._add_failure(attempt, "Unreachable", str(error))
        else:
            if reading is not None:
                self._metrics.read_seconds.observe(loop.time() - started)
                self._metrics.reads.labels("Succeeded").inc()
                await self._succeed(attempt, reading, facts, began=started)
        return False

    async def _facts(self, attempt: _Attempt) -> NodeFacts:
        facts = await self._fetcher.current(attempt.node)
        if facts is None:
            raise ReadError(
                FailureReason.NODE_NOT_FOUND,
                f"pod {attempt.pod.namespace}/{attempt.pod.name} is assigned to node"
                f" {attempt.node}, but there is no such Node",
            )
        return facts

    async def _succeed(
        self, attempt: _Attempt, reading: Reading, facts: NodeFacts, *, began: float
    ) -> None:
        name, pod = attempt.node, attempt.pod
        now = self._clock()
        decide = partial(
            plan.after_read,
            reading=reading,
            source=Source(
                namespace=pod.namespace,
                pod=pod.name,
                uid=pod.uid,
                container=pod.container,
                container_id=pod.container_id,
            ),
            node=node_info(facts),
            now=now,
            request=attempt.request,
            pending_removals=self._removals(name, now),
            through_claim=pod.claims,
        )
        change = await self._status_writer.write(name, decide, create=True)
        self._state.pods.read_well(name, attempt.target)
        self._forget_outcome(name)
        if change is not None and change.pending_removals is None:
            self._state.duplicates.read_done(name, began=began)
        elif change is not None and change.pending_removals is not None:
            self._pending_removals[name] = change.pending_removals, loop_start(now)
            missing = len(change.pending_removals.keys)
            _log.info("found GPUs missing; waiting for a second read", node=name, missing=missing)

    def _removals(self, name: str, now: datetime) -> PendingRemovals | None:
        """The removals that await a second read; they have waited as long as the loop's clock
        says."""
        if name not in self._pending_removals:
            return None
        removals, start = self._pending_removals[name]
        return replace(removals, since=removals.since + (loop_start(now) - start))

    async def _program_missing(self, attempt: _Attempt, error: ReadError) -> bool:
        """Remember that the container has no nvidia-smi. Returns whether there is another to try;
        the read has failed if there is none."""
        pods = self._state.pods
        if pods.found_missing(attempt.node, attempt.target, attempt.pod, error.message):
            _log.info(
                "container has no nvidia-smi; trying the next target",
                node=attempt.node,
                pod=attempt.pod.name,
                container=attempt.pod.container,
                error=error.message,
            )
            return True
        failure = no_program_error(pods.memory.missing(attempt.node))
        # The next attempt begins with the first target; its container is the one that backs off.
        first = self._state.target_for_read(attempt.node)
        if first is not None:
            attempt = _Attempt(attempt.node, *first, attempt.request)
        await self._fail(attempt, failure)
        return False

    async def _fail(self, attempt: _Attempt, error: ReadError) -> None:
        # Some DaemonSets of presets also run on nodes without a GPU.
        missing = error.reason is FailureReason.NVIDIA_SMI_NOT_FOUND and attempt.target.preset
        rarely = bool(missing) and not self._state.may_have_gpus(attempt.node)
        failures = self._add_failure(attempt, error.reason.value, error.message, rarely=rarely)
        if isinstance(error.__cause__, ExecPodGone) and failures < _GONE_TRIES:
            return
        known = self._state.nodes.get(attempt.node)
        decide = partial(
            plan.after_failure,
            reason=error.reason,
            message=error.message,
            node=node_info(known.facts) if known else None,
            now=self._clock(),
            request=attempt.request,
        )
        await self._status_writer.write(attempt.node, decide, create=not rarely)
        # The series of a node go with its inventory.
        view = self._state.view(attempt.node)
        if view.inventory is not None and view.policy.builtin_sinks:
            self._metrics.export_failed(attempt.node, attempt.pod.name)

    def _add_failure(
        self, attempt: _Attempt, reason: str, message: str, *, rarely: bool = False
    ) -> int:
        """Start the back-off, count and log a failure. Returns how many there were in a row."""
        return self._failures.add(
            attempt.node,
            attempt.pod,
            reason=reason,
            message=message,
            request=attempt.request,
            now=self._clock(),
            rarely=rarely,
        )
