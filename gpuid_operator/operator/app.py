"""The process: settings, log, health, lease, then the engine with Kopf as its source of events."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

from gpuid_operator import __version__
from gpuid_operator.engine.check_runner.runner import CheckRunner
from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS, Options, Timings
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.delivery.manager import Secrets
from gpuid_operator.engine.engine import Engine
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.credentials import Credentials
from gpuid_operator.kube.discovery import cluster_uid, missing_kinds
from gpuid_operator.kube.errors import KubeError, NotFound
from gpuid_operator.kube.secrets import read_secret
from gpuid_operator.operator.builtin import builtin_policy
from gpuid_operator.operator.health import Health, serve, watch_loop
from gpuid_operator.operator.lease import Lease, LeaseOptions, LostLease
from gpuid_operator.operator.settings import Settings, own_namespace
from gpuid_operator.operator.variables import SettingsError
from gpuid_operator.operator.watch import Events, Watch
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.registry import SinkContext
from gpuid_operator.sinks.secrets import EnvironmentSecrets, KubernetesSecrets, SecretData
from gpuid_operator.telemetry import log as telemetry
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

BAD_SETTINGS: Final = 2
"""Exit code for an environment that cannot be used."""
LEASE_LOST: Final = 3
"""Exit code of a leader that could not keep its lease."""

STOP_WITHIN: Final = 10.0
"""Seconds after SIGTERM in which what is under way is finished or abandoned."""

_WATCH_BOUND: Final = 120.0
_LONGEST_PAUSE: Final = 30.0
_SETTLED: Final = 60.0
_CRD_PERIOD: Final = 2.0

T = TypeVar("T")


class _Leader(Events, Protocol):
    """What works on the instance that holds the lease: an engine, or a check runner."""

    @property
    def sources(self) -> tuple[PodSelector, ...]: ...

    async def start(self) -> None: ...
    async def stop(self, *, within: float) -> None: ...


def main(environ: Mapping[str, str] = os.environ, *, timings: Timings = DEFAULT_TIMINGS) -> int:
    """Run the operator until it is told to stop. Returns the exit code of the process."""
    telemetry.configure("info", "json")
    # Objects are taken apart by the thousand, and hardly any of them are cyclic: the default of 700
    # has the collector go over them again and again (a tenth of the CPU of a cold start).
    gc.set_threshold(10_000, 20, 20)
    try:
        settings = Settings.load(environ)
        telemetry.configure(settings.log_level, settings.log_format)
        for secret in settings.secrets:
            telemetry.register_secret(secret)
        return asyncio.run(_Process(settings, environ, timings).run())
    except SettingsError as error:
        _log.error(str(error))
        return BAD_SETTINGS


class _Process:
    """One run of the operator."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], timings: Timings) -> None:
        self._settings = settings
        self._timings = timings
        self._namespace = own_namespace(environ)
        self._metrics = Metrics()
        self._health = Health()
        self._leader: _Leader | None = None
        self._credentials: Credentials | None = None

    async def run(self) -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        settings = self._settings
        async with serve(health=self._health, render=self._render, port=settings.server_port):
            _log.info("gpuid-operator starts", version=__version__)
            lag = asyncio.create_task(watch_loop())
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
        return 0

    def _render(self, accept: str) -> tuple[str, bytes]:
        if isinstance(self._leader, Engine):
            self._leader.count()
        return self._metrics.render(accept)

    async def _work(self) -> None:
        client = await self._persevere("connect to the cluster", self._connect)
        async with client:
            if not self._settings.leader_election:
                self._metrics.leader.set(1)
                await self._lead(client)
                return
            lease = Lease(client, self._lease_options(), beat=self._lease_beat)
            self._health.set_ready("standing by")
            await lease.acquire()
            self._health.set_unready("leading; nothing is listed yet")
            self._metrics.leader.set(1)
            try:
                await _first([_keep(lease), self._lead(client)])
            finally:
                self._health.retire("lease")
                await lease.release()

    async def _connect(self) -> KubeClient:
        return await KubeClient.connect(qps=self._settings.qps, burst=self._settings.burst)

    def _lease_options(self) -> LeaseOptions:
        settings = self._settings
        return LeaseOptions(
            namespace=settings.lease_namespace or self._namespace,
            name=settings.lease_name,
            holder=settings.pod_name,
            duration=settings.lease_duration.total_seconds(),
            renew_deadline=settings.lease_renew_deadline.total_seconds(),
            retry_period=settings.lease_retry_period.total_seconds(),
        )

    def _lease_beat(self) -> None:
        self._health.beat("lease", self._settings.lease_duration.total_seconds() + 5.0)

    async def _lead(self, client: KubeClient) -> None:
        """Do for ever what this instance is for."""
        command = self._settings.command
        if command is not None:
            job = self._check_job(command)
            await self._keep_going(client, lambda: self._check_runner(client, job))
            return
        cluster = self._settings.cluster_name
        if cluster is None:
            cluster = await self._persevere(
                "read namespace kube-system", lambda: cluster_uid(client)
            )
        http = HTTPClient()
        try:
            await self._keep_going(client, lambda: self._inventory_engine(client, cluster, http))
        finally:
            await http.close()

    async def _keep_going(self, client: KubeClient, make: Callable[[], _Leader]) -> None:
        """Work for ever; anew from the start when the CRDs went away meanwhile."""
        while True:
            await self._wait_for_crds(client)
            leader = make()
            try:
                await self._persevere("list the cluster", leader.start)
                self._leader = leader
                await self._watch(client, leader)
            finally:
                self._leader = None
                self._health.retire("watch")
                await leader.stop(within=STOP_WITHIN * 0.8)

    def _inventory_engine(self, client: KubeClient, cluster: str, http: HTTPClient) -> Engine:
        settings = self._settings
        return Engine(
            client,
            Options(
                targets=settings.targets,
                builtin=builtin_policy(settings),
                cluster=cluster,
                workers=settings.workers,
                timeout=settings.timeout,
                suspended=settings.suspend,
                checks_allowed=settings.policy_checks,
                restarts_per_hour=settings.restarts_per_hour,
                timings=self._timings,
            ),
            secrets=self._secrets(client),
            context=SinkContext(http=http, write_records=telemetry.write_records),
            metrics=self._metrics,
        )

    def _check_runner(self, client: KubeClient, job: CheckJob) -> CheckRunner:
        settings = self._settings
        return CheckRunner(
            client,
            job,
            workers=settings.workers,
            per_hour=settings.restarts_per_hour,
            suspended=settings.suspend,
            metrics=self._metrics,
            timings=self._timings,
        )

    def _check_job(self, command: str) -> CheckJob:
        """The one command of the environment, run in the pods of the first target."""
        settings = self._settings
        target = settings.targets[0]
        return CheckJob(
            name=settings.check_name,
            source=PodSelector(target.namespace, target.selector),
            container=target.container,
            command=command,
            timeout=settings.timeout,
            interval=settings.resync,
            restart=settings.force_restart,
        )

    def _secrets(self, client: KubeClient) -> Secrets:
        async def read(name: str) -> SecretData | None:
            try:
                secret = await read_secret(client, namespace=self._namespace, name=name)
            except NotFound:
                return None
            return SecretData(
                data=secret.data, labels=secret.labels, annotations=secret.annotations
            )

        return Secrets(
            cluster=KubernetesSecrets(
                read, asyncio.get_running_loop().time, max_age=self._timings.secret_max_age
            ),
            environment=EnvironmentSecrets(self._settings.credentials),
        )

    async def _wait_for_crds(self, client: KubeClient) -> None:
        told: frozenset[str] = frozenset()
        while missing := await self._persevere("look for the CRDs", lambda: missing_kinds(client)):
            if missing != told:
                told = missing
                words = (
                    f"waiting for the CRDs: {', '.join(sorted(missing))} not served; install them"
                    " with `kubectl apply -f crds/` or the chart"
                )
                _log.warning(words)
                self._health.set_unready(words)
            await asyncio.sleep(_CRD_PERIOD)

    async def _watch(self, client: KubeClient, leader: _Leader) -> None:
        """Keep Kopf going; returns when the CRDs are gone."""
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            self._credentials = await self._persevere("read the credentials", client.credentials)
            self._health.set_ready("leading")
            started = loop.time()
            refresh = asyncio.create_task(self._refresh_credentials(client))
            try:
                watch = Watch(
                    sources=leader.sources,
                    events=leader,
                    credentials=self._current_credentials,
                    beat=lambda: self._health.beat("watch", _WATCH_BOUND),
                )
                ends: list[Awaitable[object]] = [watch.run()]
                if isinstance(leader, Engine):
                    leader.sources_changed.clear()
                    leader.watch_begins()
                    ends += [leader.sources_changed.wait(), leader.kinds_gone.wait()]
                await _first(ends)
            finally:
                refresh.cancel()
            if isinstance(leader, Engine) and leader.sources_changed.is_set():
                continue  # the same watch, for other pods
            failures = 1 if loop.time() - started > _SETTLED else failures + 1
            if await self._persevere("look for the CRDs", lambda: missing_kinds(client)):
                return
            pause = min(_LONGEST_PAUSE, 2.0 ** (failures - 1))
            _log.warning("the watch ended; it is started again", seconds=pause)
            await asyncio.sleep(pause)

    async def _refresh_credentials(self, client: KubeClient) -> None:
        while True:
            await asyncio.sleep(60.0)
            with contextlib.suppress(KubeError):
                self._credentials = await client.credentials()

    def _current_credentials(self) -> Credentials:
        assert self._credentials is not None  # noqa: S101 - set before the watch is made
        return self._credentials

    async def _persevere(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until it works, and say what is in the way: whoever mends it need not restart us."""
        pause = 1.0
        while True:
            try:
                return await attempt()
            except KubeError as error:
                self._health.set_unready(f"cannot {what}: {error.message}")
                _log.error(f"cannot {what}", error=error.message, again_in=f"{pause:g}s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


async def _keep(lease: Lease) -> None:
    """Keep the lease, or end the process at once, so that nothing of it goes on beside the next
    leader."""
    try:
        await lease.keep()
    except LostLease as error:
        _log.error("the lease is lost; ending at once", error=str(error))
        os._exit(LEASE_LOST)


async def _first(works: list[Any]) -> None:
    """Run these side by side until one ends, and end the others; its error is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
