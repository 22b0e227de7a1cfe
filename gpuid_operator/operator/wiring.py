"""Builds the parts of the operator from its settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gpuid_operator.engine.check_runner.runner import CheckRunner
from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.core.options import Options, Timings
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.delivery.manager import Secrets
from gpuid_operator.engine.engine import Engine
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.secrets import find_secret
from gpuid_operator.operator.builtin import builtin_policy
from gpuid_operator.operator.lease import Lease, LeaseOptions
from gpuid_operator.operator.settings import Settings
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.sinks.secrets import EnvironmentSecrets, KubernetesSecrets
from gpuid_operator.telemetry.log import write_records
from gpuid_operator.telemetry.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """What every part is built from."""

    settings: Settings
    namespace: str
    """The operator's own: of its lease, and of the Secrets of its sinks."""
    metrics: Metrics
    timings: Timings

    def lease(self, client: KubeClient, *, beat: Callable[[], None]) -> Lease:
        settings = self.settings
        options = LeaseOptions(
            namespace=settings.lease_namespace or self.namespace,
            name=settings.lease_name,
            holder=settings.pod_name,
            duration=settings.lease_duration.total_seconds(),
            renew_deadline=settings.lease_renew_deadline.total_seconds(),
            retry_period=settings.lease_retry_period.total_seconds(),
        )
        return Lease(client, options, beat=beat)

    def engine(self, client: KubeClient, *, cluster: str, http: HTTPClient) -> Engine:
        settings = self.settings
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
                quarantine_taints=settings.quarantine_taints,
                quarantine_max_nodes=settings.quarantine_max_nodes,
                timings=self.timings,
            ),
            secrets=self._secrets(client),
            context=SinkContext(http=http, write_records=write_records),
            metrics=self.metrics,
        )

    def check_runner(self, client: KubeClient, *, command: str) -> CheckRunner:
        """The one command of the environment, run in the pods of the first target."""
        settings = self.settings
        target = settings.targets[0]
        job = CheckJob(
            name=settings.check_name,
            source=PodSelector(target.namespace, target.selector),
            container=target.container,
            command=command,
            timeout=settings.timeout,
            interval=settings.resync,
            restart=settings.force_restart,
        )
        return CheckRunner(
            client,
            job,
            workers=settings.workers,
            per_hour=settings.restarts_per_hour,
            suspended=settings.suspend,
            metrics=self.metrics,
            timings=self.timings,
        )

    def _secrets(self, client: KubeClient) -> Secrets:
        return Secrets(
            cluster=KubernetesSecrets(
                lambda name: find_secret(client, namespace=self.namespace, name=name),
                asyncio.get_running_loop().time,
                max_age=self.timings.secret_max_age,
            ),
            environment=EnvironmentSecrets(self.settings.credentials),
        )
