"""The engine: everything that runs on the instance that holds the lease.

Events say that something may have changed; they are remembered and put in the queue, no more. The
workers look at a node, find out what is due, and do it. The re-sync finds what no event told.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from gpuid_operator.api.values import first_fault
from gpuid_operator.engine.checks.policy_checks import PolicyChecks
from gpuid_operator.engine.core.background import Loop, run_forever
from gpuid_operator.engine.core.idle_gate import IdleGate
from gpuid_operator.engine.core.options import Options, utcnow
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.delivery.manager import Delivery, Secrets
from gpuid_operator.engine.reading.reader import Reader
from gpuid_operator.engine.reconcile.inventory_watch import InventoryWatch
from gpuid_operator.engine.reconcile.reconciler import NodeReconciler
from gpuid_operator.engine.reconcile.resync import Resync
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.inventory_cache import InventoryCache
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.engine.writing.node_labels import NodeLabeller
from gpuid_operator.engine.writing.observer import Observer
from gpuid_operator.engine.writing.policy_status import PolicyStatuses
from gpuid_operator.engine.writing.status_writer import StatusWriter, StatusWritten
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.sinks.registry import SinkContext
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)


class Engine:
    """Made when the lease is won; ends with the process."""

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
        self._options = options
        self._metrics = metrics
        self._clock = clock
        self._watch_began = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._inventories = InventoryCache()
        self._state = ClusterState(
            targets=options.targets,
            builtin=options.builtin,
            suspended=options.suspended,
            checks_allowed=options.checks_allowed,
            inventories=self._inventories,
        )
        slots = asyncio.Semaphore(options.workers)
        idle_gate = IdleGate()
        self._recorder = EventRecorder(client)
        self._observer = Observer(self._recorder, metrics)
        self._status_writer = StatusWriter(
            client,
            state=self._state,
            clock=clock,
            found=self._inventory_changed,
            gone=self._inventory_deleted,
            listeners=[self._observer, self._written],
        )
        labeller = NodeLabeller(client, state=self._state)
        self._reader = Reader(
            client,
            state=self._state,
            status_writer=self._status_writer,
            labeller=labeller,
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
        self._resync = Resync(
            client,
            state=self._state,
            policies_changed=self._policies_changed,
            inventory_found=self._inventory_changed,
            inventory_gone=self._inventory_deleted,
            clock=clock,
        )
        self._watch = InventoryWatch(
            client,
            inventories=self._inventories,
            status_writer=self._status_writer,
            resync=self._resync,
            changed=self._inventory_changed,
            deleted=self._inventory_deleted,
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
        self._reconciler = NodeReconciler(
            state=self._state,
            status_writer=self._status_writer,
            reader=self._reader,
            labeller=labeller,
            delivery=self._delivery,
            checks=self._checks,
            idle_gate=idle_gate,
            metrics=metrics,
            clock=clock,
        )
        self._policies = PolicyStatuses(
            client,
            state=self._state,
            clock=clock,
            checks_allowed=options.checks_allowed,
        )

    @property
    def sources(self) -> tuple[PodSelector, ...]:
        """The pods to watch."""
        return tuple(sorted(self._state.pods.selectors | self._checks.sources))

    @property
    def sources_changed(self) -> asyncio.Event:
        """Set when other pods are to be watched than before."""
        return self._checks.sources_changed

    @property
    def kinds_gone(self) -> asyncio.Event:
        """Set when the API server does not serve inventories any more."""
        return self._watch.kinds_gone

    async def start(self) -> None:
        """List everything, then begin to work. Raises KubeError when it cannot be listed."""
        names = await self._resync.run()
        await self._checks.follow()
        for cached in self._inventories:
            self._observer.show(cached.name, self._inventories.status(cached.name))
            await self._status_writer.repair_labels(cached.name)
        self._reconciler.enqueue(names)
        loops: list[Loop] = [
            *self._reconciler.loops(self._options.workers),
            *self._checks.loops(),
            self._watch.follow,
            self._watch.look,
            self._resync_for_ever,
            self._catch_up,
            self._policies.run,
        ]
        self._tasks += [asyncio.create_task(run_forever(loop)) for loop in loops]
        _log.info(
            "everything is listed",
            nodes=len(self._state.nodes),
            nodes_with_pods=len(self._state.pods.nodes()),
            inventories=len(self._inventories),
            policies=len(self._state.policies),
        )

    async def stop(self, *, within: float) -> None:
        """Stop reading; finish or abandon what is being sent and written within that many
        seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._delivery.close(within=within * 0.8)
        if not await self._status_writer.finish(within=until - loop.time()):
            _log.warning("some writes were given up; they are made anew after the next start")
        await self._recorder.finish(within=until - loop.time())

    def watch_begins(self) -> None:
        """The source of events starts, for the first time or again."""
        self._watch_began.set()

    def pod_event(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> None:
        """A pod of a source came, changed or went."""
        uid = body["metadata"]["uid"]
        for number in self._state.pods.targets_of(source):
            pod = None
            if not deleted:
                pod = TargetPod.from_pod(body, container=self._state.pods.targets[number].container)
            self._reconciler.enqueue(self._state.pods.put(number, uid, pod))
        self._reconciler.enqueue(self._checks.pod_event(source, body, deleted=deleted))

    def _inventory_deleted(self, name: str, uid: str) -> None:
        if self._inventories.remove(name, uid=uid):
            self._delivery.forget(name)
            self._metrics.forget_node(name)
            self._reconciler.enqueue([name])

    def _inventory_changed(self, body: dict[str, Any]) -> None:
        """An inventory as it is; no news, where it is known like that."""
        name = body["metadata"]["name"]
        before = self._inventories.get(name)
        try:
            if not self._inventories.put_object(body):
                return
        except ValidationError as error:
            self._delivery.forget(name)
            self._observer.invalid(name, body["metadata"]["uid"], first_fault(error))
            return
        cached = self._inventories.get(name)
        if before is not None and cached is not None and cached.generation != before.generation:
            self._stop_unwanted()
            self._delivery.prune()
        self._reconciler.enqueue([name])

    def policy_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        """A policy came, changed or went."""
        if self._state.policies.take(body, deleted=deleted):
            self._policies_changed()
            self._reconciler.enqueue(
                {cached.name for cached in self._inventories} | self._state.pods.nodes()
            )

    def _policies_changed(self) -> None:
        """Other policies are in force; whoever calls lets the nodes be looked at, too."""
        self._stop_unwanted()
        self._checks.policies_changed()
        self._delivery.prune()
        self._policies.touch()

    def _stop_unwanted(self) -> None:
        self._reader.stop_suspended()
        self._checks.stop_unwanted()

    def count(self) -> None:
        """Bring the metrics that are counted, not followed, up to date."""
        self._metrics.queue_depth.set(len(self._reconciler))
        self._delivery.count_pending()

    def _written(self, written: StatusWritten) -> None:
        if written.before.policy != written.after.policy or any(
            change.entries for change in written.changes
        ):
            self._policies.touch()

    async def _catch_up(self) -> None:
        while True:
            await self._watch_began.wait()
            await asyncio.sleep(self._options.timings.catch_up.total_seconds())
            self._watch_began.clear()
            try:
                self._reconciler.enqueue(await self._resync.catch_up())
            except KubeError as error:
                _log.warning("a look after the watch began failed", error=str(error))

    async def _resync_for_ever(self) -> None:
        failures = 0
        while True:
            pause = self._options.timings.resync
            if failures:
                pause = min(pause, backoff(failures, chance=random.random()))  # noqa: S311
            await asyncio.sleep(pause.total_seconds())
            try:
                names = await self._resync.run()
                for name in await self._resync.expire():
                    self._delivery.forget(name)
                    self._metrics.forget_node(name)
                self._delivery.prune()
                self._policies.touch()
                self._reconciler.enqueue(names)
                await self._checks.relist()
                failures = 0
            except KubeError as error:
                failures += 1
                _log.warning("the re-sync failed", error=str(error), failures=failures)
            except Exception:
                failures += 1
                _log.exception("the re-sync failed")
