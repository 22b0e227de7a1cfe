"""One run of the process: health server, signals, lease, then the work of the leader."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Final

from gpuid_operator import __version__
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.discovery import cluster_uid
from gpuid_operator.operator.concurrency import run_until_first
from gpuid_operator.operator.health import Health, log_loop_lag, serve
from gpuid_operator.operator.leader import InventoryWork, Leader
from gpuid_operator.operator.lease import Lease, LostLease
from gpuid_operator.operator.retry import until_success
from gpuid_operator.operator.wiring import Wiring
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

LEASE_LOST: Final = 3
"""Exit code of a leader that could not keep its lease."""


class Process:
    """One run of the operator."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._settings = wiring.settings
        self._metrics = wiring.metrics
        self._health = Health()
        self._leader: Leader | None = None

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises SettingsError where the port is not free."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        port = self._settings.server_port
        async with serve(health=self._health, render=self._render, port=port):
            _log.info("starting gpuid-operator", version=__version__)
            lag = asyncio.create_task(log_loop_lag())
            work = asyncio.create_task(self._work())
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    work.result()
                else:
                    _log.info("stopping")
                    self._health.set_unready("stopping")
                    work.cancel()
                    await asyncio.wait([work])
                    if not work.cancelled():
                        work.result()
            finally:
                lag.cancel()
                stopping.cancel()
        _log.info("stopped")

    def _render(self, accept: str) -> tuple[str, bytes]:
        leader = self._leader
        if leader is not None and isinstance(leader.work, InventoryWork):
            leader.work.count()
        kopf_tasks = leader.watch.tasks if leader is not None and leader.watch is not None else 0
        self._metrics.asyncio_tasks.set(len(asyncio.all_tasks()) + kopf_tasks)
        return self._metrics.render(accept)

    async def _work(self) -> None:
        client = await until_success(
            "failed to connect to the cluster", self._connect, health=self._health
        )
        async with client:
            if not self._settings.leader_election:
                self._metrics.leader.set(1)
                await self._lead(client)
                return
            lease = self._wiring.lease(client, beat=self._lease_beat)
            self._health.set_ready("standing by")
            await lease.acquire()
            self._health.set_unready("leading; waiting for the first list")
            self._metrics.leader.set(1)
            try:
                await run_until_first(keep_or_exit(lease), self._lead(client))
            finally:
                self._health.retire("lease")
                await lease.release()

    async def _connect(self) -> KubeClient:
        return await KubeClient.connect(qps=self._settings.qps, burst=self._settings.burst)

    def _lease_beat(self) -> None:
        self._health.beat("lease", self._settings.lease_duration.total_seconds() + 5.0)

    async def _lead(self, client: KubeClient) -> None:
        """Work as the leader, until cancelled."""
        leader = self._leader = Leader(client, self._health)
        command = self._settings.command
        if command is not None:
            await leader.run(lambda: self._wiring.check_runner(client, command=command))
            return
        cluster = self._settings.cluster_name
        if cluster is None:
            cluster = await until_success(
                "failed to read namespace kube-system",
                lambda: cluster_uid(client),
                health=self._health,
            )
        http = HTTPClient()
        try:
            await leader.run(lambda: self._wiring.engine(client, cluster=cluster, http=http))
        finally:
            await http.close()


async def keep_or_exit(lease: Lease) -> None:
    """Keep the lease. Without it the process exits at once, so that nothing of it runs beside the
    next leader."""
    try:
        await lease.keep()
    except LostLease as error:
        _log.error("lost lease; exiting", error=str(error))
        os._exit(LEASE_LOST)
