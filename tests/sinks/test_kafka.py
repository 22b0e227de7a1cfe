"""The kafka sink on a real Kafka: one node in KRaft mode."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from gpuid_operator.api.meta import ALLOWED_HOSTS_ANNOTATION, SINK_SECRET_LABEL
from gpuid_operator.api.secret import SecretData
from gpuid_operator.api.sinks import Sink
from gpuid_operator.localcluster.ports import free_ports
from gpuid_operator.sinks import kafka_producer, kafka_wire
from gpuid_operator.sinks.base import (
    AddressNotAllowed,
    RecordsRefused,
    Refused,
    SecretMissing,
    SecretNotAllowed,
    SinkError,
    Unavailable,
)
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.sinks.registry import open_sink
from gpuid_operator.sinks.secrets import KubernetesSecrets
from tests.support.api_fault_proxy import Position
from tests.support.golden import MOVED, records
from tests.support.kafka_server import (
    MECHANISMS,
    PASSWORD,
    STRANGER,
    USER,
    WRITE,
    Kafka,
    Message,
)
from tests.support.tcp_fault_proxy import TcpFaultProxy

GOLDEN = (
    b'{"id":"8f14e45f-ceea-467f-a0e6-5d1f8b2f6c11.7.1780828245","event":"GPUMoved",'
    b'"cluster":"prod/eu","node":"gpu-node-01","machine":"i-1234567890abcdef0",'
    b'"source":"gpu-operator/nvidia-device-plugin-abc","chassis":"1821325191344",'
    b'"gpu":"1761025346025","time":"2026-06-07T10:30:45Z",'
    b'"uuid":"GPU-25e04bdf-1c2d-4e3f-8a9b-0c1d2e3f4a5b","pci":"00000000:2A:00.0",'
    b'"product":"NVIDIA GB200","driver":"570.148.08","sequence":7,'
    b'"from":"00000000:29:00.0","to":"00000000:2A:00.0"}'
)
ID = b"8f14e45f-ceea-467f-a0e6-5d1f8b2f6c11.7.1780828245"
EVENT = (
    b'{"specversion":"1.0","id":"%b","source":"/gpuid-operator/prod%%2Feu",'
    b'"type":"com.github.gpuid.GPUMoved","subject":"gpu-node-01",'
    b'"time":"2026-06-07T10:30:45Z","datacontenttype":"application/json","data":%b}'
) % (ID, GOLDEN)

Open = Callable[..., Any]
SASL = {
    "userSecretRef": {"name": "kafka", "key": "user"},
    "passwordSecretRef": {"name": "kafka", "key": "password"},
}
CA = {"caSecretRef": {"name": "kafka", "key": "ca"}}


@pytest.fixture
async def topic(kafka: Kafka, request: pytest.FixtureRequest) -> str:
    name = re.sub(r"[^-\w.]", "-", request.node.name)
    await kafka.create_topic(name)
    return name


@pytest.fixture
def secrets(make_secrets: Any, certificates: Any) -> Any:
    secrets = make_secrets(user=USER, password=PASSWORD, ca=certificates.authority)
    secrets.values["tls.crt"] = certificates.client_certificate.read_text()
    secrets.values["tls.key"] = certificates.client_key.read_text()
    return secrets


@pytest.fixture
async def sink(kafka: Kafka, topic: str, secrets: Any) -> AsyncIterator[Open]:
    """Opens a sink of the topic of this test, by default in clear text."""
    sinks: list[Any] = []

    def opened(listener: str = "clear", *, secrets: Any = secrets, **fields: Any) -> Any:
        settings = {
            "brokers": [kafka.broker(listener)],
            "topic": topic,
            **({"insecure": True} if listener in ("clear", "sasl") else {"tls": CA}),
            **fields,
        }
        sinks.append(
            open_sink(
                Sink.model_validate({"name": "bus", "kafka": settings}),
                secrets=secrets,
                context=SinkContext(http=HTTPClient(), write_records=lambda _: None),
            )
        )
        return sinks[-1]

    yield opened
    for one in sinks:
        await one.close()


async def failure(sink: Any, *batch: Any) -> SinkError:
    with pytest.raises(SinkError) as caught:
        await sink.send(batch)
    assert PASSWORD not in caught.value.message
    return caught.value


@contextmanager
def silent_listener(address: tuple[str, int] = ("127.0.0.1", 0)) -> Iterator[int]:
    """Accepts no connection: its queue is full, as if a firewall dropped what is sent to it."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(address)
        listener.listen(0)
        for _ in range(2):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def ids(messages: list[Message]) -> list[str]:
    return [dict(message.headers)["id"].decode() for message in messages]


async def test_a_message_is_the_record_byte_for_byte(
    kafka: Kafka, topic: str, sink: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await sink().send(records(MOVED))
    (message,) = await kafka.read(topic)
    assert message.key == b"gpu-node-01"
    assert message.value == GOLDEN
    assert message.headers == (("id", ID),)
    (line,) = [line for line in caplog.records if line.msg == "export completed"]
    assert vars(line)["fields"] == {"topic": topic, "records": 1}


async def test_a_message_is_a_cloud_event_byte_for_byte(
    kafka: Kafka, topic: str, sink: Open
) -> None:
    await sink(format="cloudevents").send(records(MOVED))
    (message,) = await kafka.read(topic)
    assert message.key == b"gpu-node-01"
    assert message.value == EVENT
    assert message.headers == (("id", ID), ("content-type", b"application/cloudevents+json"))


async def test_the_records_of_a_node_are_in_one_partition_in_their_order(
    kafka: Kafka, topic: str, sink: Open, record: Any
) -> None:
    bus = sink()
    batches = [[record(node=f"gpu-{n % 7}") for n in range(100)] for _ in range(3)]
    for batch in batches:
        await bus.send(batch)
    messages = await kafka.read(topic)
    assert {message.partition for message in messages} == {0, 1, 2}
    sent = [one for batch in batches for one in batch]
    for node in {one.node for one in sent}:
        of_node = [message for message in messages if message.key == node.encode()]
        assert len({message.partition for message in of_node}) == 1
        assert ids(of_node) == [one.id for one in sent if one.node == node]


async def test_a_batch_larger_than_a_message_may_be_is_sent_in_several(
    kafka: Kafka, topic: str, sink: Open, record: Any
) -> None:
    batch = [record(product="x" * 1000) for _ in range(2000)]
    await sink().send(batch)
    assert ids(await kafka.read(topic)) == [one.id for one in batch]


async def test_partitions_that_were_added_are_used_after_a_time(
    kafka: Kafka, sink: Open, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kafka.create_topic("growing", partitions=1)
    bus = sink(topic="growing")
    batch = [record(node=f"gpu-{n}") for n in range(20)]
    await bus.send(batch)
    await kafka.add_partitions("growing", 3)
    await bus.send(batch)
    assert {message.partition for message in await kafka.read("growing")} == {0}
    monkeypatch.setattr(kafka_producer, "_MAX_AGE", 0.0)
    await bus.send(batch)
    assert {message.partition for message in await kafka.read("growing")} == {0, 1, 2}


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("listener", ["sasl", "sasltls"])
async def test_a_login(
    kafka: Kafka, topic: str, sink: Open, secrets: Any, record: Any, mechanism: str, listener: str
) -> None:
    bus = sink(listener, sasl={"mechanism": mechanism} | SASL)
    await bus.send([record()])
    await bus.send([record()])
    assert len(await kafka.read(topic)) == 2
    assert secrets.hosts == {"localhost"}
    secrets.values["password"] = "another-password-nobody-may-see"
    refused = await failure(bus, record())
    assert type(refused).reason == "Refused"
    assert "SASL_AUTHENTICATION_FAILED" in refused.message
    assert "another" not in refused.message
    assert secrets.invalidated == 1
    secrets.values["password"] = PASSWORD
    await bus.send([record()])
    assert len(await kafka.read(topic)) == 3


async def test_tls_with_a_client_certificate(
    kafka: Kafka, topic: str, sink: Open, secrets: Any, record: Any
) -> None:
    await sink("tls").send([record()])
    refused = await failure(sink("mutual"), record())
    assert type(refused).reason == "Refused"
    assert "certSecretRef" in refused.message
    mutual = sink("mutual", tls=CA | {"certSecretRef": {"name": "client"}})
    await mutual.send([record()])
    assert len(await kafka.read(topic)) == 2
    del secrets.values["tls.key"]
    with pytest.raises(SecretMissing, match=r"Secret client has no key tls\.key"):
        await mutual.send([record()])
    secrets.values["tls.key"] = "no key"
    assert "certSecretRef contains no PEM certificate" in (await failure(mutual, record())).message


async def test_a_key_with_a_passphrase_is_refused(
    sink: Open, secrets: Any, record: Any, certificates: Any
) -> None:
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:hidden", "-in"]
    encrypted = await asyncio.to_thread(
        subprocess.check_output, [*command, certificates.client_key], text=True
    )
    secrets.values["tls.key"] = encrypted
    refused = await failure(sink("mutual", tls=CA | {"certSecretRef": {"name": "c"}}), record())
    assert "without a passphrase" in refused.message


async def test_an_unknown_authority_is_refused(sink: Open, secrets: Any, record: Any) -> None:
    refused = await failure(sink("tls", tls={}), record())
    assert type(refused) is Refused
    assert "untrusted certificate" in refused.message
    assert "set tls.caSecretRef" in refused.message
    secrets.values["ca"] = "no certificate"
    assert "caSecretRef contains no PEM" in (await failure(sink("tls"), record())).message


async def test_a_name_that_the_certificate_lacks_is_refused(
    kafka: Kafka, sink: Open, record: Any
) -> None:
    refused = await failure(sink("tls", brokers=[kafka.broker("tls", "127.0.0.1")]), record())
    assert type(refused) is Refused
    assert "untrusted certificate" in refused.message


@pytest.mark.parametrize(
    ("listener", "fields", "error", "said"),
    [
        ("clear", {"insecure": False}, Unavailable, "check the port, tls, sasl and insecure"),
        ("tls", {"insecure": True, "tls": None}, Refused, "whether the port expects TLS"),
        ("sasl", {}, Unavailable, "check the port, tls, sasl and insecure"),
        ("clear", {"sasl": SASL | {"mechanism": "PLAIN"}}, Refused, "ILLEGAL_SASL_STATE"),
    ],
)
async def test_what_does_not_fit_the_listener_is_named(
    sink: Open,
    record: Any,
    listener: str,
    fields: dict[str, Any],
    error: type[SinkError],
    said: str,
) -> None:
    caught = await failure(sink(listener, **fields), record())
    assert type(caught) is error
    assert said in caught.message


async def test_a_topic_that_does_not_exist_is_refused_and_not_created(
    kafka: Kafka, sink: Open, record: Any
) -> None:
    bus = sink(topic="no-such-topic")
    for _ in range(2):
        refused = await failure(bus, record())
        assert type(refused) is Refused
        assert refused.message.endswith("topic no-such-topic does not exist: create it")
    await kafka.create_topic("no-such-topic")
    await bus.send([record()])


async def test_the_right_that_the_documentation_names_suffices(
    kafka: Kafka, topic: str, sink: Open, secrets: Any, record: Any
) -> None:
    secrets.values["user"] = STRANGER
    bus = sink("sasl", sasl={"mechanism": "SCRAM-SHA-512"} | SASL)
    refused = await failure(bus, record())
    assert type(refused) is Refused
    assert "TOPIC_AUTHORIZATION_FAILED" in refused.message
    await kafka.allow(STRANGER, topic=topic, operation=WRITE)
    async with asyncio.timeout(30):
        while not await kafka.read(topic):  # the broker learns of the right in its own time
            with suppress(Refused):
                await bus.send([record()])


async def test_a_message_that_is_too_large_is_what_is_refused(
    kafka: Kafka, sink: Open, record: Any
) -> None:
    await kafka.create_topic("small", partitions=1, max_message_bytes="2000")
    bus = sink(topic="small")
    good, large = record(), record(product="x" * 3000)
    await bus.send([good])
    for batch in ([record(), large], [large]):
        refused = await failure(bus, *batch)
        assert type(refused) is RecordsRefused
        assert "MESSAGE_SIZE_TOO_LARGE" in refused.message
    after = record()
    await bus.send([after])
    assert ids(await kafka.read("small")) == [good.id, after.id]


async def test_a_missing_secret_is_named(sink: Open, record: Any, make_secrets: Any) -> None:
    bus = sink("sasl", sasl=SASL | {"mechanism": "PLAIN"}, secrets=make_secrets(user=USER))
    with pytest.raises(SecretMissing, match="Secret kafka has no key password"):
        await bus.send([record()])


async def test_a_secret_is_for_each_broker_that_a_broker_names(
    kafka: Kafka, topic: str, sink: Open, record: Any
) -> None:
    """The brokers name themselves `localhost`, whatever the address in the sink."""
    annotations = {ALLOWED_HOSTS_ANNOTATION: "127.0.0.1, localhost"}
    data = {"user": USER.encode(), "password": PASSWORD.encode()}
    secret = SecretData(labels={SINK_SECRET_LABEL: "true"}, annotations=annotations, data=data)

    async def read(_: str) -> SecretData:
        return secret

    bus = sink(
        "sasl",
        brokers=[kafka.broker("sasl", "127.0.0.1")],
        sasl={"mechanism": "PLAIN"} | SASL,
        secrets=KubernetesSecrets(read, lambda: 0.0),
    )
    await bus.send([record()])
    annotations[ALLOWED_HOSTS_ANNOTATION] = "127.0.0.1"
    with pytest.raises(SecretNotAllowed, match="must not be sent to localhost"):
        await bus.send([record()])
    annotations[ALLOWED_HOSTS_ANNOTATION] = "localhost"
    with pytest.raises(SecretNotAllowed, match=r"must not be sent to 127\.0\.0\.1"):
        await bus.send([record()])
    assert len(await kafka.read(topic)) == 1


@pytest.mark.parametrize("broker", ["169.254.169.254:9092", "[fe80::1]:9092"])
async def test_a_link_local_broker_is_refused(sink: Open, record: Any, broker: str) -> None:
    with pytest.raises(AddressNotAllowed):
        await sink(brokers=[broker]).send([record()])


async def test_a_broker_that_is_down_is_unavailable_and_another_one_is_asked(
    kafka: Kafka, topic: str, sink: Open, record: Any
) -> None:
    (nobody,) = free_ports(1)
    down = await failure(sink(brokers=[f"127.0.0.1:{nobody}"]), record())
    assert type(down) is Unavailable
    assert "Connection refused" in down.message or "Connect call failed" in down.message
    await sink(brokers=[f"127.0.0.1:{nobody}", kafka.broker()]).send([record()])
    assert len(await kafka.read(topic)) == 1


async def test_a_broker_that_does_not_answer_leaves_others_their_turn(
    kafka: Kafka, topic: str, sink: Open, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_producer, "_DELIVERY_TIMEOUT", 0.3)
    with silent_listener() as port:
        bus = sink(brokers=[f"127.0.0.1:{port}", kafka.broker()])
        assert type(await failure(bus, record())) is Unavailable
        monkeypatch.undo()
        monkeypatch.setattr(kafka_wire, "_CONNECT_TIMEOUT", 3600.0)
        await bus.send([record()])
    assert len(await kafka.read(topic)) == 1


async def test_an_address_that_does_not_answer_leaves_others_their_turn(
    kafka: Kafka, topic: str, sink: Open, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(kafka.broker().rpartition(":")[2])

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr(kafka_wire, "resolve", resolve)
    monkeypatch.setattr(kafka_wire, "_CONNECT_TIMEOUT", 6.0)
    with silent_listener(("127.0.0.2", port)):
        await sink(brokers=[f"localhost:{port}"]).send([record()])
    assert len(await kafka.read(topic)) == 1


async def test_connections_share_the_context_for_tls(
    sink: Open, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ssl.SSLContext] = []
    make = ssl.create_default_context

    def counted(**arguments: Any) -> ssl.SSLContext:
        made.append(make(**arguments))
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", counted)
    bus = sink("tls")
    await bus.send([record()])
    monkeypatch.setattr(kafka_producer, "_MAX_IDLE", 0.0)
    await bus.send([record()])
    assert len(made) == 1


@pytest.mark.parametrize("position", list(Position))
async def test_a_connection_that_breaks_stores_nothing_twice(
    kafka: Kafka, topic: str, sink: Open, record: Any, position: Position
) -> None:
    """Whether the broker has seen the records, or has stored them."""
    batches = [[record(node="gpu-1"), record(node="gpu-1")] for _ in range(2)]
    with TcpFaultProxy(kafka.ports["proxied"], listen=kafka.ports["proxy"]) as proxy:
        bus = sink(brokers=[f"localhost:{proxy.port}"])
        await bus.send(batches[0])
        trap = proxy.set_trap(batches[1][0].id.encode(), position, lambda: None)
        await bus.send(batches[1])
        assert trap.triggered.is_set()
        await bus.close()
    assert ids(await kafka.read(topic)) == [one.id for batch in batches for one in batch]


async def test_a_broker_that_goes_and_comes_back(
    kafka: Kafka, topic: str, sink: Open, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = sink()
    batch = [record(node="gpu-1") for _ in range(3)]
    await bus.send(batch[:1])
    monkeypatch.setattr(kafka_producer, "_DELIVERY_TIMEOUT", 2.0)
    await asyncio.to_thread(kafka.kill)
    for _ in range(2):
        down = await failure(bus, *batch[1:])
        assert type(down) is Unavailable
        assert f"failed to produce to topic {topic} at localhost:" in down.message
    await asyncio.to_thread(kafka.start)
    monkeypatch.undo()
    await bus.send(batch[1:])
    assert ids(await kafka.read(topic)) == [one.id for one in batch]


async def test_a_broker_that_stands_still_is_given_up(
    kafka: Kafka, topic: str, sink: Open, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stores what it got meanwhile when it goes on, once, however often it was sent."""
    bus = sink()
    first, meanwhile, last = (record(node="gpu-1") for _ in range(3))
    await bus.send([first])
    assert kafka.process is not None
    kafka.process.send_signal(signal.SIGSTOP)
    try:
        monkeypatch.setattr(kafka_wire, "_RESPONSE_TIMEOUT", 0.2)
        monkeypatch.setattr(kafka_producer, "_DELIVERY_TIMEOUT", 1.0)
        still = await failure(bus, meanwhile)
        assert type(still) is Unavailable
        assert "no response in time" in still.message
    finally:
        kafka.process.send_signal(signal.SIGCONT)
    monkeypatch.undo()
    await bus.send([last])
    found = ids(await kafka.read(topic))
    assert [one for one in found if one != meanwhile.id] == [first.id, last.id]
    assert found.count(meanwhile.id) <= 1


async def test_a_cancellation_does_not_wait_for_the_broker(
    kafka: Kafka, topic: str, sink: Open, record: Any
) -> None:
    one = record()
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        go_on.wait()

    with TcpFaultProxy(kafka.ports["proxied"], listen=kafka.ports["proxy"]) as proxy:
        bus = sink(brokers=[f"localhost:{proxy.port}"])
        proxy.set_trap(one.id.encode(), Position.BEFORE, hold)
        sending = asyncio.create_task(bus.send([one]))
        await asyncio.to_thread(reached.wait)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await bus.close()
        go_on.set()
    assert await kafka.read(topic) == []
