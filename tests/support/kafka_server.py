"""A real Kafka: one node in KRaft mode, with a listener for each way to connect."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.protocol.admin import (
    CreateAclsRequest,
    CreatePartitionsRequest,
    CreateTopicsRequest,
)
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from gpuid_operator.localcluster.ports import free_ports
from gpuid_operator.sinks.base import SinkError
from gpuid_operator.sinks.kafka_access import Access
from gpuid_operator.sinks.kafka_wire import BrokerConnection
from tests.support.gotools import kafka_classpath

USER: Final = "gpuid"
PASSWORD: Final = "the-broker-password-nobody-may-see"
STRANGER: Final = "stranger"
"""A user without any right, whose password is the same."""
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_LISTENERS: Final = {
    "clear": "PLAINTEXT",
    "sasl": "SASL_PLAINTEXT",
    "tls": "SSL",
    "sasltls": "SASL_SSL",
    "mutual": "SSL",
    "proxied": "PLAINTEXT",
}
WRITE: Final = 4
_TOPIC, _LITERAL, _ALLOW = 2, 3, 3
_DEADLINE: Final = 60.0
_HEAP: Final = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_JAAS: Final = "org.apache.kafka.common.security"


@dataclass(frozen=True)
class Message:
    """A message as a consumer gets it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@dataclass
class Kafka:
    """A server of this run. `ports` has the port of each listener: `clear`, `sasl`, `tls`,
    `sasltls`, `mutual`, which demands a client certificate, and `proxied`, which sends its clients
    to the port `proxy`, where a test may have a proxy."""

    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def broker(self, listener: str = "clear", host: str = "localhost") -> str:
        return f"{host}:{self.ports[listener]}"

    async def create_topic(self, name: str, *, partitions: int = 3, **settings: str) -> None:
        """Create a topic; `settings` are its settings, with underscores for dots."""
        named = [(key.replace("_", "."), value) for key, value in settings.items()]
        topic: tuple[object, ...] = (name, partitions, 1, [], named)
        response = await self.ask(CreateTopicsRequest([topic], 10_000, False))
        assert not any(one["error_code"] for one in response["topic_errors"]), response
        while not await self._partitions(name):  # noqa: ASYNC110 - another process decides
            await asyncio.sleep(0.05)

    async def add_partitions(self, topic: str, count: int) -> None:
        """Let a topic have this many partitions."""
        await self.ask(CreatePartitionsRequest([(topic, (count, None))], 10_000, False))
        while len(await self._partitions(topic)) < count:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)

    async def allow(self, user: str, *, topic: str, operation: int) -> None:
        """Allow a user an operation (a number of Kafka's AclOperation) on a topic."""
        principal = f"User:{user}"
        await self.ask(
            CreateAclsRequest(_TOPIC, topic, _LITERAL, principal, "*", operation, _ALLOW)
        )

    async def ask(self, request: Any) -> dict[str, Any]:
        """A request as the administrator."""
        connection = await BrokerConnection.open(
            "127.0.0.1", self.ports["clear"], Access(tls=None, login=None), tried="test"
        )
        try:
            return await connection.ask(request)
        finally:
            connection.close()

    def sink(self, topic: str, *, port: int) -> dict[str, Any]:
        """A sink in clear text, behind a proxy on this port."""
        settings = {"brokers": [f"localhost:{port}"], "topic": topic, "insecure": True}
        return {"name": "bus", "batch": {"maxWait": "50ms"}, "kafka": settings}

    def records(self, topic: str) -> list[dict[str, Any]]:
        """The records in a topic, by partition and in order of arrival."""
        return [json.loads(one.value or b"") for one in asyncio.run(self.read(topic))]

    async def read(self, topic: str) -> list[Message]:
        """All messages of a topic, by partition and offset."""
        return await read_messages(self.broker(), await self._partitions(topic))

    async def _partitions(self, topic: str) -> list[TopicPartition]:
        """The partitions of a topic; none before all have a leader."""
        response = await self.ask(MetadataRequest([topic], allow_auto_topic_creation=False))
        (found,) = response["topics"]
        if any(one["leader"] == -1 for one in found["partitions"]):
            return []
        numbers = sorted(one["partition"] for one in found["partitions"])
        return [TopicPartition(topic, number) for number in numbers]

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*_java(), "kafka.Kafka", "server.properties"],
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + _DEADLINE
        while not self._accepts():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < end, "Kafka did not come up"
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once, as a machine that fails does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(_DEADLINE)

    def _accepts(self) -> bool:
        """Whether each listener accepts connections, and producers get an ID."""
        try:
            for name in _LISTENERS:
                socket.create_connection(("localhost", self.ports[name]), timeout=1).close()
            response = asyncio.run(self.ask(InitProducerIdRequest(None, 1)))
        except (OSError, SinkError):
            return False
        return not response["error_code"]


async def read_messages(broker: str, partitions: Sequence[TopicPartition]) -> list[Message]:
    """All messages of these partitions, by partition and offset."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[Message] = []
        while any([await consumer.position(one) < ends[one] for one in partitions]):
            for some in (await consumer.getmany(timeout_ms=1000)).values():
                found += [
                    Message(m.partition, m.offset, m.key, m.value, tuple(m.headers)) for m in some
                ]
    finally:
        await consumer.stop()
    return sorted(found, key=lambda one: (one.partition, one.offset))


@pytest.fixture(scope="session")
def kafka(certificates: Any) -> Iterator[Kafka]:
    with run_kafka(certificates) as server:
        yield server


@contextmanager
def run_kafka(certificates: Any) -> Iterator[Kafka]:
    """A server that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="gpuid-kafka-"))
    names = (*_LISTENERS, "controller", "proxy")
    server = Kafka(folder, dict(zip(names, free_ports(len(names)), strict=True)))
    keystore = certificates.key.read_text() + certificates.certificate.read_text()
    (folder / "keystore.pem").write_text(keystore)
    (folder / "authority.pem").write_text(certificates.authority)
    (folder / "server.properties").write_text(_settings(server))
    users = [
        f"--add-scram={mechanism}=[name={user},password={PASSWORD}]"
        for mechanism in MECHANISMS[1:]
        for user in (USER, STRANGER)
    ]
    subprocess.run(
        [
            *[*_java(), "kafka.tools.StorageTool", "format", "--config", "server.properties"],
            *["--cluster-id", "MkU3OEVBNTcwNTJENDM2Qg", *users],
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.kill()
        shutil.rmtree(folder)


def _java() -> list[str]:
    return ["java", *_HEAP, "-cp", kafka_classpath()]


def _settings(server: Kafka) -> str:
    """server.properties."""
    listeners = [f"{name.upper()}://localhost:{server.ports[name]}" for name in _LISTENERS]
    protocols = [f"{name.upper()}:{protocol}" for name, protocol in _LISTENERS.items()]
    controller = server.ports["controller"]
    passwords = " ".join(f'user_{user}="{PASSWORD}"' for user in (USER, STRANGER))
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@localhost:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": ",".join((*listeners, f"CONTROLLER://localhost:{controller}")),
        "advertised.listeners": ",".join(
            (*listeners[:-1], f"PROXIED://localhost:{server.ports['proxy']}")
        ),
        "listener.security.protocol.map": ",".join((*protocols, "CONTROLLER:PLAINTEXT")),
        "inter.broker.listener.name": "CLEAR",
        "log.dirs": str(server.folder / "data"),
        "offsets.topic.replication.factor": "1",
        # Clients in clear text are administrators; the stranger may do nothing.
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:{USER};User:CN=client",
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
    }
    for listener in ("sasl", "sasltls"):
        prefix = f"listener.name.{listener}"
        settings[f"{prefix}.plain.sasl.jaas.config"] = (
            f"{_JAAS}.plain.PlainLoginModule required {passwords};"
        )
        for mechanism in MECHANISMS[1:]:
            settings[f"{prefix}.{mechanism.lower()}.sasl.jaas.config"] = (
                f"{_JAAS}.scram.ScramLoginModule required;"
            )
    for listener in ("tls", "sasltls", "mutual"):
        prefix = f"listener.name.{listener}.ssl"
        for store, name in (("keystore", "keystore"), ("truststore", "authority")):
            settings[f"{prefix}.{store}.type"] = "PEM"
            settings[f"{prefix}.{store}.location"] = str(server.folder / f"{name}.pem")
    settings["listener.name.mutual.ssl.client.auth"] = "required"
    return "".join(f"{name}={value}\n" for name, value in settings.items())
