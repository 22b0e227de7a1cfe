"""An engine as the operator makes it, on the fake API server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from gpuid_operator.api.policy import PolicySpec
from gpuid_operator.api.sinks import Records, Sink, StdoutSink
from gpuid_operator.engine.core.options import Options
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.delivery.manager import Secrets
from gpuid_operator.engine.engine import Engine
from gpuid_operator.plan.target import Target
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.telemetry.metrics import Metrics
from tests.support import clock, secret_source
from tests.support.kube import FakeKube
from tests.support.objects import CONTAINER, LABEL, NAMESPACE, put_quarantine, quarantine_path

TARGET = Target(namespace=NAMESPACE, selector="=".join(LABEL), container=CONTAINER)
SOURCE = PodSelector(TARGET.namespace, TARGET.selector)


def builtin(**fields: Any) -> PolicySpec:
    """The environment's policy, every field given: one stdout sink that gets changes."""
    given: dict[str, Any] = {
        "priority": 0,
        "suspend": False,
        "read_interval": timedelta(hours=24),
        "sighting_interval": timedelta(hours=24),
        "node_labels": True,
        "retention": timedelta(hours=720),
        "sinks": [Sink(name="stdout", records=Records.CHANGES, stdout=StdoutSink())],
        "checks": [],
    }
    return PolicySpec(**(given | fields))


def options(**fields: Any) -> Options:
    """The engine's settings."""
    given: dict[str, Any] = {
        "targets": (TARGET,),
        "builtin": builtin(),
        "cluster": "test",
        "workers": 4,
        "timeout": timedelta(seconds=30),
    }
    return Options(**(given | fields))


class EngineHarness:
    """An engine on a fake cluster, and the records that its stdout sinks wrote."""

    def __init__(self, kube: FakeKube, *, http: HTTPClient | None = None, **fields: Any) -> None:
        self.kube = kube
        self.records: list[dict[str, Any]] = []
        self.metrics = Metrics()
        source = secret_source.Secrets()
        self.engine = Engine(
            kube,
            options(**fields),
            secrets=Secrets(cluster=source, environment=source),
            context=SinkContext(http=http or HTTPClient(), write_records=self._write),
            metrics=self.metrics,
            clock=clock.now,
        )

    def _write(self, records: Iterable[Mapping[str, object]]) -> None:
        self.records += map(dict, records)

    def pod_event(self, body: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Tell the engine of a target pod, as Kopf's handlers do."""
        self.engine.pod_event(SOURCE, dict(body), deleted=deleted)

    def quarantine(self, name: str, *parts: dict[str, str], **spec: Any) -> dict[str, Any]:
        """Create or change a quarantine, and tell the engine of it."""
        body = put_quarantine(self.kube, name, *parts, **spec)
        self.engine.quarantines.quarantine_event(body, deleted=False)
        return body

    def lift(self, name: str) -> None:
        """Delete a quarantine, and tell the engine of it."""
        body = self.kube.objects[quarantine_path(name)]
        self.kube.remove(quarantine_path(name))
        self.engine.quarantines.quarantine_event(body, deleted=True)


async def until(done: Callable[[], object], *, within: float = 3600.0) -> None:
    """Let the loop run until something is so, for so many seconds of its clock at most."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while not done():
        assert loop.time() < end, "it did not come about"
        await asyncio.sleep(0.05)
