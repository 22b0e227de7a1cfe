"""The engine: everything that runs on the instance that holds the lease.

Events and lists update the cluster state and enqueue the nodes that they concern; they do nothing
else. A worker takes a node from the queue, reads it if that is due, and writes the outcome with its
history as one status. Each sink gets the history that its cursor in that status does not cover yet,
and the cursor advances with the next write. The resync lists everything from time to time and
repairs what no event reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from gpuid_operator.api.values import first_fault
from gpuid_operator.engine.checks.policy_checks import PolicyChecks
from gpuid_operator.engine.core.background import run_forever
from gpuid_operator.engine.core.idle_gate import IdleGate
from gpuid_operator.engine.core.options import Options, utcnow
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.core.turns import in_turns
from gpuid_operator.engine.delivery.manager import Delivery, Secrets
from gpuid_operator.engine.reading.reader import Reader
from gpuid_operator.engine.reconcile.expiry import InventoryExpiry
from gpuid_operator.engine.reconcile.inventory_watch import InventoryWatch
from gpuid_operator.engine.reconcile.pod_events import PodEvents
from gpuid_operator.engine.reconcile.quarantines import Quarantines
from gpuid_operator.engine.reconcile.reconciler import NodeReconciler
from gpuid_operator.engine.reconcile.resync import Resync
from gpuid_operator.engine.reconcile.resync_loop import ResyncLoop
from gpuid_operator.engine.reconcile.slice_watch import ResourceSliceWatch
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.engine.writing.node_labels import NodeLabeller
from gpuid_operator.engine.writing.observer import Observer
from gpuid_operator.engine.writing.policy_status import PolicyStatuses
from gpuid_operator.engine.writing.status_writer import StatusWriter, StatusWritten
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.plan.policy import unknown_sinks
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)


class Engine:
    """Starts when this instance acquires the lease and ends with the process.

    As InventoryEvents it receives every inventory that a list, a watch or a write finds.
    """

    def __init__(
        self,
        client: KubeClient,
        options: Options,
        *,
        secrets: Secrets,
        context: SinkContext,
        metrics: Metrics,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []
        self._state = ClusterState(
            targets=options.targets,
            builtin=options.builtin,
            suspended=options.suspended,
            checks_allowed=options.checks_allowed,
            grace=options.timings.pod_grace,
        )
        slots = asyncio.Semaphore(options.workers)
        idle_gate = IdleGate()
        self._recorder = EventRecorder(client)
        self._observer = Observer(self._recorder, metrics)
        self._status_writer = StatusWriter(
            client, state=self._state, events=self, listeners=[self._observer, self._status_written]
        )
        self._reader = Reader(
            client,
            state=self._state,
            status_writer=self._status_writer,
            metrics=metrics,
            clock=clock,
            timeout=options.timeout,
            slots=slots,
            grace=options.timings.pod_grace,
        )
        self._checks = PolicyChecks(
            client,
            state=self._state,
            status_writer=self._status_writer,
            recorder=self._recorder,
            slots=slots,
            workers=options.workers,
            allowed=options.checks_allowed,
            per_hour=options.restarts_per_hour,
            timings=options.timings,
            clock=clock,
        )
        self._delivery = Delivery(
            state=self._state,
            status_writer=self._status_writer,
            idle_gate=idle_gate,
            secrets=secrets,
            context=context,
            cluster=options.cluster,
            timings=options.timings,
            metrics=metrics,
            clock=clock,
        )
        self._policy_statuses = PolicyStatuses(
            client, state=self._state, clock=clock, checks_allowed=options.checks_allowed
        )
        self.quarantines = Quarantines(
            client,
            state=self._state,
            status_writer=self._status_writer,
            recorder=self._recorder,
            idle_gate=idle_gate,
            options=options,
            availability_changed=self._checks.sources_changed.set,
            clock=clock,
        )
        self._status_writer.add_listener(self.quarantines.status_written)
        self._reconciler = NodeReconciler(
            state=self._state,
            status_writer=self._status_writer,
            reader=self._reader,
            labeller=NodeLabeller(client, state=self._state, idle_gate=idle_gate),
            delivery=self._delivery,
            checks=self._checks,
            idle_gate=idle_gate,
            metrics=metrics,
            clock=clock,
        )
        self._state.duplicates.subscribe(self._reconciler.enqueue)
        slices = ResourceSliceWatch(client, state=self._state, enqueue=self._reconciler.enqueue)
        self.pod_events = PodEvents(
            client,
            state=self._state,
            checks=self._checks,
            enqueue=self._reconciler.enqueue,
            timings=options.timings,
        )
        self._resync = Resync(
            client,
            state=self._state,
            events=self,
            target_pods=self.pod_events.targets,
            policies_changed=self._policies_changed,
            list_quarantines=self.quarantines.list_all,
            list_slices=slices.list_all,
        )
        self._resync_loop = ResyncLoop(
            self._resync,
            InventoryExpiry(
                client, state=self._state, status_writer=self._status_writer, clock=clock
            ),
            reconciler=self._reconciler,
            delivery=self._delivery,
            checks=self._checks,
            policy_statuses=self._policy_statuses,
            quarantines=self.quarantines,
            metrics=metrics,
            timings=options.timings,
        )
        self._inventory_watch = InventoryWatch(
            client,
            inventories=self._state.inventories,
            status_writer=self._status_writer,
            resync=self._resync,
            events=self,
        )
        self._loops = [
            *self._reconciler.loops(options.workers),
            *self._checks.loops(),
            *self._inventory_watch.loops(),
            *slices.loops(),
            *self._resync_loop.loops(),
            *self.pod_events.targets.loops(),
            self._policy_statuses.run,
            *self.quarantines.loops(),
        ]

    @property
    def sources(self) -> tuple[PodSelector, ...]:
        """The pods to watch."""
        return self.pod_events.sources()

    @property
    def sources_changed(self) -> asyncio.Event:
        """Set when `sources` or `quarantines.available` changes."""
        return self._checks.sources_changed

    @property
    def kinds_gone(self) -> asyncio.Event:
        """Set when the API server does not serve inventories; set again while it still does not,
        after the caller has cleared it."""
        return self._inventory_watch.kinds_gone

    async def start(self) -> None:
        """List everything, then start to work. Raises KubeError if a list fails."""
        names = await self._resync.run()
        await self._checks.follow()
        async for cached in in_turns(self._state.inventories):
            await self._status_writer.retry_labels(cached.name)
        self._reconciler.enqueue(names)
        self._tasks += [asyncio.create_task(run_forever(loop)) for loop in self._loops]
        _log.info(
            "initial list completed",
            nodes=len(self._state.nodes),
            nodes_with_pods=len(self._state.pods.nodes()),
            inventories=len(self._state.inventories),
            policies=len(self._state.policies),
        )

    async def stop(self, *, within: float) -> None:
        """Stop reading. Finish the deliveries and writes under way, and abandon those that take
        longer than `within` seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._delivery.close(within=within * 0.8)
        await self.quarantines.stop()
        if not await self._status_writer.finish(within=until - loop.time()):
            _log.warning("abandoned status writes; the next leader repeats them")
        await self._recorder.finish(within=until - loop.time())

    def watch_begins(self) -> None:
        """The watch starts, for the first time or again."""
        self._resync_loop.watch_started()

    def count(self) -> None:
        """Update the metrics that are counted at each scrape."""
        self._metrics.queue_depth.set(len(self._reconciler))
        self._metrics.duplicate_gpus.set(len(self._state.duplicates))
        self._delivery.count_pending()

    def pod_event(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> None:
        """A pod of a source was added, modified or deleted."""
        self.pod_events.take(source, body, deleted=deleted)

    def policy_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        """A policy was added, modified or deleted."""
        if self._state.policies.take(body, deleted=deleted):
            self._policies_changed()
            self._reconciler.enqueue(self._state.node_names())

    def inventory_changed(self, body: dict[str, Any]) -> None:
        """Store an inventory and reconcile its node, unless this version is known already."""
        name = body["metadata"]["name"]
        before = self._state.inventories.get(name)
        try:
            if not self._state.inventories.put_object(body):
                return
        except ValidationError as error:
            self._delivery.forget(name)
            self._observer.invalid(name, body["metadata"]["uid"], first_fault(error))
            return
        self._observer.show(name, self._state.inventories.status(name))
        self._status_writer.labels_changed(name)
        cached = self._state.inventories.get(name)
        unknown = unknown_sinks(cached.spec.sinks or ()) if cached is not None else ()
        if unknown:
            fault = f"spec.sinks: {', '.join(unknown)}: unknown type of sink"
            self._observer.invalid(name, body["metadata"]["uid"], fault)
        if before is not None and cached is not None and cached.generation != before.generation:
            self._stop_unwanted()
            self._delivery.prune_soon()
        self._reconciler.enqueue([name])

    def inventory_deleted(self, name: str, uid: str) -> None:
        """Forget an inventory, and reconcile its node, which may need another."""
        if self._state.inventories.remove(name, uid=uid):
            self._delivery.forget(name)
            self._metrics.forget_node(name)
            self._reconciler.enqueue([name])

    def _policies_changed(self) -> None:
        """Apply a change of the effective policies; the caller enqueues the nodes."""
        self._stop_unwanted()
        self._checks.policies_changed()
        self._delivery.prune_soon()
        self._policy_statuses.touch()

    def _stop_unwanted(self) -> None:
        self._reader.stop_suspended()
        self._checks.stop_unwanted()

    def _status_written(self, written: StatusWritten) -> None:
        told = any(change.entries for change in written.changes)
        if told or written.before.policy != written.after.policy:
            self._policy_statuses.touch()
