"""Delivery on the fake API server, with http sinks whose answers a test sets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gpuid_operator.api.policy import Policy
from gpuid_operator.api.sinks import Sink
from gpuid_operator.engine.core.idle_gate import IdleGate
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS
from gpuid_operator.engine.delivery.manager import Delivery, Secrets
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.sinks.http_client import Answer, HTTPClient
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.telemetry.metrics import Metrics
from tests.support import clock, secret_source
from tests.support.engines import TARGET, builtin
from tests.support.kube import FakeKube
from tests.support.objects import inventory_path, put_inventory, put_policy

STATUS = r"/gpuinventories/[^/]+/status$"
"""Paths of status writes."""


@dataclass(frozen=True, slots=True)
class Post:
    """A batch as it reached the server of an http sink."""

    host: str
    ids: tuple[str, ...]
    token: str | None
    time: float


class FakeHTTP(HTTPClient):
    """Servers of http sinks."""

    def __init__(self) -> None:
        super().__init__()
        self.posts: list[Post] = []
        self.records: list[dict[str, Any]] = []
        """What was accepted, in order of arrival."""
        self.answer: Callable[[Post], int] = lambda _: 200
        self.until: asyncio.Event | None = None
        """Answers wait for it."""

    async def post(self, url: str, *, body: bytes, headers: Mapping[str, str], **_: Any) -> Answer:
        records = orjson.loads(body)
        ids = tuple(record["id"] for record in records)
        now = asyncio.get_running_loop().time()
        host = url.removeprefix("https://").partition("/")[0]
        post = Post(host, ids, headers.get("Authorization"), now)
        self.posts.append(post)
        if self.until is not None:
            await self.until.wait()
        status = self.answer(post)
        self.records += records if status < 300 else []
        return Answer(status=status, phrase="said", retry_after=None, text="", truncated=False)

    @property
    def hosts(self) -> list[str]:
        return [post.host for post in self.posts]


def sink(name: str, **fields: Any) -> Sink:
    """An http sink whose server has the name of the sink."""
    spec = {"name": name, "http": {"url": f"https://{name}/in"}} | fields
    return Sink.model_validate(spec)


def entries(count: int, *, first: int = 1) -> list[dict[str, Any]]:
    """Returns `count` entries of a history, one record each."""
    return [
        {
            "sequence": number,
            "time": "2026-06-07T10:00:00Z",
            "type": "DriverChanged",
            "from": f"5{number}",
            "to": f"5{number + 1}",
        }
        for number in range(first, first + count)
    ]


class Deliveries:
    """Delivery and its collaborators, wired as the engine does."""

    def __init__(self, kube: FakeKube, *sinks: Sink) -> None:
        """`sinks`: those of the environment."""
        self.kube = kube
        self.http = FakeHTTP()
        self.metrics = Metrics()
        self.idle_gate = IdleGate()
        self.cluster_secrets = secret_source.Secrets(token="of-the-cluster")
        self.environment = secret_source.Secrets(token="of-the-environment")
        self.state = ClusterState(targets=[TARGET], builtin=builtin(sinks=list(sinks)))
        self.inventories = self.state.inventories
        self.status_writer = StatusWriter(
            kube,
            state=self.state,
            events=self,
        )
        self.delivery = Delivery(
            state=self.state,
            status_writer=self.status_writer,
            idle_gate=self.idle_gate,
            secrets=Secrets(cluster=self.cluster_secrets, environment=self.environment),
            context=SinkContext(http=self.http, write_records=lambda _: None),
            cluster="test",
            timings=DEFAULT_TIMINGS,
            metrics=self.metrics,
            clock=clock.now,
        )

    def put(self, node: str, count: int = 0, **fields: Any) -> None:
        """An inventory with `count` undelivered entries; `status` replaces fields of its status."""
        status = {
            "state": "Present",
            "sequence": count,
            "policy": fields.pop("policy", ""),
            "history": entries(count),
        } | fields.pop("status", {})
        put_inventory(self.kube, node, status=status, **fields)
        self.take(node)

    def take(self, node: str) -> None:
        """Take over an inventory as it stands in the cluster."""
        self.inventories.put_object(self.kube.objects[inventory_path(node)])

    def deliver(self, *nodes: str) -> None:
        for node in nodes:
            self.delivery.enqueue(node)

    def put_policy(self, name: str, *sinks: Sink) -> None:
        """A policy with these sinks; inventories name it in their status."""
        spec = [one.to_json() for one in sinks]
        body = put_policy(self.kube, name, sinks=spec)
        self.state.policies.put(Policy.from_object(body))

    def remove(self, node: str) -> None:
        """Delete an inventory, and report it as the engine does."""
        self.kube.remove(inventory_path(node))
        cached = self.inventories.get(node)
        assert cached is not None
        self.inventory_deleted(node, cached.uid)

    def status(self, node: str) -> dict[str, Any]:
        """The status in the cluster."""
        status: dict[str, Any] = self.kube.objects[inventory_path(node)]["status"]
        return status

    def cursor(self, node: str, name: str) -> int | None:
        """The number of the last entry that the sink has by the status in the cluster."""
        for one in self.status(node).get("sinks", ()):
            if one["name"] == name:
                delivered: int = one["deliveredSequence"]
                return delivered
        return None

    def error(self, node: str, name: str) -> str | None:
        """Why the sink takes nothing, by the status in the cluster."""
        for one in self.status(node).get("sinks", ()):
            if one["name"] == name:
                said: str | None = one.get("lastError")
                return said
        return None

    def writes(self) -> int:
        """The status writes so far."""
        return len(self.kube.asked("PATCH", STATUS))

    def count(self, name: str, sink: str) -> float | None:
        """The value of a sink's metric."""
        return self.metrics.registry.get_sample_value(name, {"sink": sink})

    def inventory_changed(self, body: dict[str, Any]) -> None:
        self.inventories.put_object(body)

    def inventory_deleted(self, name: str, uid: str) -> None:
        if self.inventories.remove(name, uid=uid):
            self.delivery.forget(name)
