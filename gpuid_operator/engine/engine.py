"""The engine: everything that runs on the instance that holds the lease.

Events say that something may have changed; they are remembered and put in the queue, no more. The
workers look at a node, find out what is due, and do it. The re-sync finds what no event told.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError

from gpuid_operator.api.values import first_fault
from gpuid_operator.engine.background import Loop, keep_on
from gpuid_operator.engine.backlog import Backlog
from gpuid_operator.engine.commit import Committer, Written
from gpuid_operator.engine.delivery import Delivery, Secrets
from gpuid_operator.engine.event_posts import EventPosts
from gpuid_operator.engine.fleet import Fleet
from gpuid_operator.engine.held import Inventories
from gpuid_operator.engine.inventory_watch import InventoryWatch
from gpuid_operator.engine.node_labels import NodeLabeller
from gpuid_operator.engine.observe import Observer
from gpuid_operator.engine.options import Options, utcnow
from gpuid_operator.engine.policy_checks import PolicyChecks
from gpuid_operator.engine.policy_status import PolicyStatuses
from gpuid_operator.engine.reader import Reader
from gpuid_operator.engine.resync import Resync, take_policy
from gpuid_operator.engine.sources import Source
from gpuid_operator.engine.upkeep import Upkeep
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.sinks.registry import SinkContext
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

CATCH_UP: Final = timedelta(seconds=10)
"""How long after the beginning of a watch it is looked what was deleted before it. The watch has
listed by then; of what went between that and our own last look no event tells."""


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
        self._inventories = Inventories()
        self._fleet = Fleet(
            targets=options.targets,
            builtin=options.builtin,
            suspended=options.suspended,
            checks_allowed=options.checks_allowed,
        )
        slots = asyncio.Semaphore(options.workers)
        backlog = Backlog()
        self._posts = EventPosts(client)
        self._observer = Observer(self._posts, metrics)
        self._committer = Committer(
            client,
            inventories=self._inventories,
            fleet=self._fleet,
            clock=clock,
            found=self._inventory_changed,
            gone=self._inventory_deleted,
            watchers=[self._observer, self._written],
        )
        labeller = NodeLabeller(client, fleet=self._fleet, inventories=self._inventories)
        self._reader = Reader(
            client,
            fleet=self._fleet,
            inventories=self._inventories,
            committer=self._committer,
            labeller=labeller,
            metrics=metrics,
            clock=clock,
            timeout=options.timeout,
            slots=slots,
        )
        self._checks = PolicyChecks(
            client,
            fleet=self._fleet,
            inventories=self._inventories,
            committer=self._committer,
            posts=self._posts,
            slots=slots,
            workers=options.workers,
            allowed=options.checks_allowed,
            per_hour=options.restarts_per_hour,
            clock=clock,
        )
        self._resync = Resync(
            client,
            fleet=self._fleet,
            inventories=self._inventories,
            policies_changed=self._policies_changed,
            inventory_found=self._inventory_changed,
            inventory_gone=self._inventory_deleted,
            clock=clock,
        )
        self._watch = InventoryWatch(
            client,
            inventories=self._inventories,
            committer=self._committer,
            resync=self._resync,
            changed=self._inventory_changed,
            deleted=self._inventory_deleted,
        )
        self._delivery = Delivery(
            inventories=self._inventories,
            fleet=self._fleet,
            committer=self._committer,
            backlog=backlog,
            secrets=secrets,
            context=context,
            cluster=options.cluster,
            metrics=metrics,
            clock=clock,
        )
        self._upkeep = Upkeep(
            fleet=self._fleet,
            inventories=self._inventories,
            committer=self._committer,
            reader=self._reader,
            labeller=labeller,
            delivery=self._delivery,
            checks=self._checks,
            backlog=backlog,
            metrics=metrics,
            clock=clock,
        )
        self._policies = PolicyStatuses(
            client,
            fleet=self._fleet,
            inventories=self._inventories,
            clock=clock,
            checks_allowed=options.checks_allowed,
        )

    @property
    def sources(self) -> tuple[Source, ...]:
        """The pods to watch."""
        return tuple(sorted(self._fleet.sources | self._checks.sources))

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
        for held in self._inventories:
            self._observer.show(held.name, self._inventories.status(held.name))
            await self._committer.repair_labels(held.name)
        self._upkeep.consider(names)
        loops: list[Loop] = [
            *self._upkeep.loops(self._options.workers),
            *self._checks.loops(),
            self._watch.follow,
            self._watch.look,
            self._resync_for_ever,
            self._catch_up,
            self._policies.run,
        ]
        self._tasks += [asyncio.create_task(keep_on(loop)) for loop in loops]
        _log.info(
            "everything is listed",
            nodes=len(self._fleet.nodes),
            nodes_with_pods=len(self._fleet.nodes_with_pods()),
            inventories=len(self._inventories),
            policies=len(self._fleet.policies),
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
        if not await self._committer.finish(within=until - loop.time()):
            _log.warning("some writes were given up; they are made anew after the next start")
        await self._posts.finish(within=until - loop.time())

    def watch_begins(self) -> None:
        """The source of events starts, for the first time or again."""
        self._watch_began.set()

    def pod_event(self, source: Source, body: dict[str, Any], *, deleted: bool) -> None:
        """A pod of a source came, changed or went."""
        uid = body["metadata"]["uid"]
        for number in self._fleet.targets_of(source):
            pod = None
            if not deleted:
                pod = TargetPod.from_pod(body, container=self._fleet.targets[number].container)
            self._upkeep.consider(self._fleet.put_pod(number, uid, pod))
        self._upkeep.consider(self._checks.pod_event(source, body, deleted=deleted))

    def _inventory_deleted(self, name: str, uid: str) -> None:
        if self._inventories.remove(name, uid=uid):
            self._delivery.forget(name)
            self._metrics.forget_node(name)
            self._upkeep.consider([name])

    def _inventory_changed(self, body: dict[str, Any]) -> None:
        """An inventory as it is; no news, where it is known like that."""
        name = body["metadata"]["name"]
        before = self._inventories.get(name)
        try:
            if not self._inventories.put_object(body):
                return
        except ValidationError as error:
            self._delivery.forget(name)
            self._observer.illegible(name, body["metadata"]["uid"], first_fault(error))
            return
        held = self._inventories.get(name)
        if before is not None and held is not None and held.generation != before.generation:
            self._stop_unwanted()
            self._delivery.prune()
        self._upkeep.consider([name])

    def policy_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        """A policy came, changed or went."""
        if take_policy(self._fleet, body, deleted=deleted):
            self._policies_changed()
            self._upkeep.consider(
                {held.name for held in self._inventories} | self._fleet.nodes_with_pods()
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
        self._metrics.queue_depth.set(len(self._upkeep))
        self._delivery.count_pending()

    def _written(self, written: Written) -> None:
        if written.before.policy != written.after.policy or any(
            outcome.entries for outcome in written.outcomes
        ):
            self._policies.touch()

    async def _catch_up(self) -> None:
        while True:
            await self._watch_began.wait()
            await asyncio.sleep(CATCH_UP.total_seconds())
            self._watch_began.clear()
            try:
                self._upkeep.consider(await self._resync.catch_up())
            except KubeError as error:
                _log.warning("a look after the watch began failed", error=str(error))

    async def _resync_for_ever(self) -> None:
        failures = 0
        while True:
            pause = self._options.resync_period
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
                self._upkeep.consider(names)
                await self._checks.relist()
                failures = 0
            except KubeError as error:
                failures += 1
                _log.warning("the re-sync failed", error=str(error), failures=failures)
            except Exception:
                failures += 1
                _log.exception("the re-sync failed")
