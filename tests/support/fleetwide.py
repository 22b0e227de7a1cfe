"""All types of sinks at once, each on a real server, for tests that treat them alike.

A new type is a function that returns its Receiver, and a line in RECEIVERS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pytest

from gpuid_operator.localcluster import LocalCluster
from tests.support.operators import Operator
from tests.support.otlp_collector import run_collector
from tests.support.receivers import WebService
from tests.support.sink_servers import (
    BATCH,
    COLUMNS,
    Bucket,
    Database,
    booked,
    shape,
    warehouse_credentials,
    written,
)

Records = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """A server, and the sink that delivers to it."""

    port: int
    pattern: bytes
    """A part of the last that the sink sends of a batch, for the traps of a proxy."""
    sink: Callable[[int], dict[str, Any]]
    """The sink, whose server is behind a proxy on this port."""
    records: Callable[[], Records]
    """What the server holds, in order of arrival."""
    fields: Collection[str] | None = None
    """The fields that the server keeps, if not all."""
    proxy_port: int = 0
    """The port on which the proxy has to listen, if not any."""
    ordered: bool = True
    once: bool = False
    """Whether the server keeps a record once, however often it comes."""

    def check(self, wanted: dict[str, dict[str, Any]]) -> None:
        """The server has these records, under one id with one content."""
        records = self.records()
        if self.once:
            assert len(records) == len(wanted)
        assert booked(records, ordered=self.ordered) == {
            identity: {name: record[name] for name in self.fields or record}
            for identity, record in wanted.items()
        }


class Setting:
    """What the functions in RECEIVERS get: the cluster, a name for what they create, the fixtures
    of servers, and a stack for their own."""

    def __init__(
        self, fleet: LocalCluster, name: str, request: pytest.FixtureRequest, stack: ExitStack
    ) -> None:
        self.fleet = fleet
        self.name = name
        self.server = request.getfixturevalue
        self.stack = stack


def _http(setting: Setting) -> Receiver:
    service = setting.stack.enter_context(WebService())
    return Receiver(
        port=service.port,
        pattern=b"POST /gpus",
        sink=lambda port: service.sink(port=port),
        records=lambda: service.records,
    )


def _postgres(setting: Setting) -> Receiver:
    database = Database(setting.server("postgres"), setting.name)
    warehouse_credentials(setting.fleet, database)
    return Receiver(
        port=database.server.port,
        # The query that ends a batch, with the last byte of its length, because the batch table has
        # ON COMMIT, too. In clear text, so that a proxy can read it.
        pattern=b"\x0bCOMMIT",
        sink=lambda port: database.sink(port=port, sslMode="disable"),
        records=database.records,
        fields=COLUMNS.values(),
        once=True,
    )


def _bucket(setting: Setting, server: str, pattern: bytes) -> Receiver:
    bucket = Bucket(setting.server(server), setting.name)
    bucket.credentials(setting.fleet)
    return Receiver(
        port=int(bucket.server.url.rpartition(":")[2]),
        pattern=pattern,
        sink=lambda port: bucket.sink(port=port),
        records=bucket.records,
        ordered=False,
    )


def _otlp(setting: Setting) -> Receiver:
    # One that has no records of other tests.
    folder = setting.server("tmp_path_factory").mktemp(setting.name)
    collector = setting.stack.enter_context(run_collector(folder))
    return Receiver(
        port=collector.port,
        pattern=b"POST /v1/logs",
        sink=lambda port: collector.sink(port=port),
        records=collector.records,
    )


def _kafka(setting: Setting) -> Receiver:
    server = setting.server("kafka")
    asyncio.run(server.create_topic(setting.name))
    return Receiver(
        port=server.ports["proxied"],
        proxy_port=server.ports["proxy"],
        pattern=b'"event":',
        sink=lambda port: server.sink(setting.name, port=port),
        records=lambda: server.records(setting.name),
    )


RECEIVERS: Final[dict[str, Callable[[Setting], Receiver]]] = {
    "http": _http,
    "postgres": _postgres,
    "s3": partial(_bucket, server="s3", pattern=b"PUT /"),
    "gcs": partial(_bucket, server="gcs", pattern=b"POST /upload/"),
    "azure": partial(_bucket, server="azure", pattern=b"PUT /"),
    "otlp": _otlp,
    "kafka": _kafka,
}


class Fleetwide:
    """Every type of sink for every node: those of RECEIVERS, and the log."""

    def __init__(self, setting: Setting) -> None:
        self.receivers = {name: create(setting) for name, create in RECEIVERS.items()}
        self._fleet = setting.fleet

    def sinks(self, ports: dict[str, int]) -> list[dict[str, Any]]:
        """All sinks, through proxies on these ports."""
        return [
            *(one.sink(ports[name]) for name, one in self.receivers.items()),
            {"name": "logs", "batch": BATCH, "stdout": {}},
        ]

    def check(self, operator: Operator) -> None:
        """Every entry of every history is at every sink."""
        wanted = written(self._fleet)
        for one in self.receivers.values():
            one.check(wanted)
        logged = [{key: line[key] for key in shape(wanted)} for line in operator.records()]
        assert booked(logged) == wanted
