"""What the leader does: it works while the CRDs are served, and keeps Kopf running beside the work.

wait for the CRDs → start the work (the first full list) → run Kopf → … → stop the work
      ↑                                                ↑ Kopf ended, or other pods     │
      └────────────────────────────── the CRDs are gone ───────────────────────────────┘
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol, runtime_checkable

from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.operator import collector
from gpuid_operator.operator.concurrency import run_until_first
from gpuid_operator.operator.crds import missing_crds, wait_for_crds
from gpuid_operator.operator.credentials import CredentialsCache
from gpuid_operator.operator.handlers import EventReceiver, QuarantineReceiver
from gpuid_operator.operator.health import Health
from gpuid_operator.operator.kopf_thread import KopfThread
from gpuid_operator.operator.retry import LONGEST_PAUSE, until_success
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

STOP_WITHIN: Final = 8.0
"""Seconds in which the work has to stop: of the 10 s after SIGTERM, the lease needs some."""

_WATCH_BOUND: Final = 120.0
_SETTLED: Final = 60.0
"""Seconds after which a watch counts as one that worked."""


class LeaderWork(EventReceiver, Protocol):
    """What the leader runs: an engine, or a check runner."""

    @property
    def sources(self) -> tuple[PodSelector, ...]: ...

    async def start(self) -> None: ...
    async def stop(self, *, within: float) -> None: ...


class QuarantineWork(QuarantineReceiver, Protocol):
    """The part of the engine that keeps quarantines, where the API server serves them."""

    @property
    def available(self) -> bool: ...

    async def list_all(self) -> None: ...


class RightsWork(Protocol):
    """The part of the engine that knows which pods it may watch."""

    async def check_rights(self) -> None: ...


@runtime_checkable
class InventoryWork(LeaderWork, Protocol):
    """The engine: it keeps inventories, and the pods that it watches depend on the policies."""

    @property
    def sources_changed(self) -> asyncio.Event: ...
    @property
    def kinds_gone(self) -> asyncio.Event: ...
    @property
    def quarantines(self) -> QuarantineWork: ...
    @property
    def pod_events(self) -> RightsWork: ...

    def watch_begins(self) -> None: ...
    def count(self) -> None: ...


class EventWatch(Protocol):
    """Watches the cluster until it is cancelled or can no longer watch."""

    @property
    def tasks(self) -> int: ...

    async def run(self) -> None: ...


class Leader:
    """Runs the work of the leader, and restarts it when the CRDs were gone meanwhile."""

    def __init__(
        self, client: KubeClient, health: Health, *, watch: Callable[..., EventWatch] = KopfThread
    ) -> None:
        """`watch` takes the keyword arguments of KopfThread."""
        self._client = client
        self._health = health
        self._make_watch = watch
        self._credentials = CredentialsCache(client)
        self.work: LeaderWork | None = None
        """The work that has started, for its metrics."""
        self.watch: EventWatch | None = None
        """The watch that runs, for its metrics."""

    async def run(self, make_work: Callable[[], LeaderWork]) -> None:
        """Work until cancelled."""
        while True:
            await wait_for_crds(self._client, self._health)
            work = make_work()
            try:
                await until_success("failed to list the cluster", work.start, health=self._health)
                collector.freeze()
                self.work = work
                await self._watch_while_crds_exist(work)
            finally:
                self.work = None
                self._health.retire("watch")
                await work.stop(within=STOP_WITHIN)
                collector.unfreeze()

    async def _watch_while_crds_exist(self, work: LeaderWork) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            await until_success(
                "failed to read the credentials", self._credentials.refresh, health=self._health
            )
            self._health.set_ready("leading")
            started = loop.time()
            await self._watch_once(work)
            if isinstance(work, InventoryWork) and work.sources_changed.is_set():
                continue  # the same watch, of other pods or kinds
            failures = 1 if loop.time() - started > _SETTLED else failures + 1
            if await missing_crds(self._client, self._health):
                return
            if isinstance(work, InventoryWork):
                # A kind that is not served any more, and pods that may not be listed any more,
                # would end each watch.
                await until_success(
                    "failed to list quarantines", work.quarantines.list_all, health=self._health
                )
                await until_success(
                    "failed to list target pods", work.pod_events.check_rights, health=self._health
                )
            pause = min(LONGEST_PAUSE, 2.0 ** (failures - 1))
            _log.warning("watch ended; restarting", seconds=pause)
            await asyncio.sleep(pause)

    async def _watch_once(self, work: LeaderWork) -> None:
        """Watch until Kopf ends, or the work needs other pods or misses a kind."""
        refresh = asyncio.create_task(self._credentials.keep_fresh())
        engine = work if isinstance(work, InventoryWork) else None
        try:
            self.watch = watch = self._make_watch(
                sources=work.sources,
                receiver=work,
                credentials=self._credentials.current,
                beat=lambda: self._health.beat("watch", _WATCH_BOUND),
                quarantines=engine.quarantines if engine and engine.quarantines.available else None,
            )
            endings: list[Any] = [watch.run()]
            if engine is not None:
                engine.sources_changed.clear()
                engine.kinds_gone.clear()
                engine.watch_begins()
                endings += [engine.sources_changed.wait(), engine.kinds_gone.wait()]
            await run_until_first(*endings)
        finally:
            self.watch = None
            refresh.cancel()
