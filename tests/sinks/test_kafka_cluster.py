"""The kafka sink on an imitation of a cluster, with errors that a single node does not show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.protocol.metadata import MetadataRequest

from gpuid_operator.api.sinks import Sink
from gpuid_operator.sinks import kafka_producer, kafka_wire
from gpuid_operator.sinks.base import RecordsRefused, Refused, SinkError, Unavailable
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.kafka_access import Access
from gpuid_operator.sinks.kafka_batches import Message
from gpuid_operator.sinks.kafka_wire import BrokerConnection
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.sinks.registry import open_sink
from tests.support.kafka_server import read_messages
from tests.support.kfake import FakeKafka, run_fake_kafka

TOPIC = "changes"
# Nodes of each partition.
NODES = ["gpu-0", "gpu-1", "gpu-5"]
REQUEST_TIMED_OUT = 7
MESSAGE_TOO_LARGE = 10
NOT_ENOUGH_REPLICAS = 19
NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20
OUT_OF_ORDER_SEQUENCE_NUMBER = 45
DUPLICATE_SEQUENCE_NUMBER = 46
UNKNOWN_PRODUCER_ID = 59
INVALID_RECORD = 87

Stored = Callable[[], Awaitable[list[str]]]


@pytest.fixture
def cluster() -> Iterator[FakeKafka]:
    with run_fake_kafka() as cluster:
        cluster.create_topic(TOPIC)
        yield cluster


@pytest.fixture
async def bus(cluster: FakeKafka, make_secrets: Any) -> AsyncIterator[Any]:
    settings = {"brokers": cluster.brokers[:1], "topic": TOPIC, "insecure": True}
    sink = open_sink(
        Sink.model_validate({"name": "bus", "kafka": settings}),
        secrets=make_secrets(),
        context=SinkContext(http=HTTPClient(), write_records=lambda _: None),
    )
    yield sink
    await sink.close()


@pytest.fixture
def stored(cluster: FakeKafka) -> Stored:
    """The ids of the records in the topic."""

    async def read() -> list[str]:
        partitions = [TopicPartition(TOPIC, number) for number in range(3)]
        messages = await read_messages(cluster.brokers[0], partitions)
        return [dict(message.headers)["id"].decode() for message in messages]

    return read


async def failure(bus: Any, *batch: Any) -> SinkError:
    with pytest.raises(SinkError) as caught:
        await bus.send(batch)
    return caught.value


async def test_the_leader_moves(cluster: FakeKafka, bus: Any, stored: Stored, record: Any) -> None:
    batch = [record(node=NODES[0]) for _ in range(6)]
    for one in batch:
        await bus.send([one])
        cluster.move(TOPIC, int(one.id.split(".")[1]) % 3)
    assert await stored() == [one.id for one in batch]


@pytest.mark.parametrize(
    "code", [REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS, NOT_ENOUGH_REPLICAS_AFTER_APPEND]
)
async def test_an_error_that_passes_stores_nothing_twice(
    cluster: FakeKafka, bus: Any, stored: Stored, record: Any, code: int
) -> None:
    batch = [record(node=NODES[0]) for _ in range(3)]
    await bus.send(batch[:1])
    cluster.fail(code, count=2)
    await bus.send(batch[1:2])
    await bus.send(batch[2:])
    assert await stored() == [one.id for one in batch]


async def test_an_error_that_stays_is_unavailable(
    cluster: FakeKafka,
    bus: Any,
    stored: Stored,
    record: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = [record(node=NODES[0]) for _ in range(2)]
    await bus.send(batch[:1])
    monkeypatch.setattr(kafka_producer, "_DELIVERY_TIMEOUT", 2.0)
    cluster.fail(NOT_ENOUGH_REPLICAS, count=1000)
    caught = await failure(bus, batch[1])
    assert type(caught) is Unavailable
    assert "NOT_ENOUGH_REPLICAS" in caught.message
    assert await stored() == [batch[0].id]


@pytest.mark.parametrize("code", [OUT_OF_ORDER_SEQUENCE_NUMBER, UNKNOWN_PRODUCER_ID])
async def test_a_broker_that_forgot_the_producer_gets_another(
    cluster: FakeKafka, bus: Any, stored: Stored, record: Any, code: int
) -> None:
    batch = [record(node=NODES[0]) for _ in range(2)]
    await bus.send(batch[:1])
    cluster.fail(code)
    assert isinstance(await failure(bus, batch[1]), Unavailable)
    await bus.send(batch[1:])
    assert await stored() == [one.id for one in batch]


@pytest.mark.parametrize("code", [MESSAGE_TOO_LARGE, INVALID_RECORD])
async def test_records_that_one_partition_refuses_are_what_is_refused(
    cluster: FakeKafka, bus: Any, stored: Stored, record: Any, code: int
) -> None:
    batch = [record(node=node) for node in NODES]
    cluster.fail(code, partition=0)
    assert type(await failure(bus, *batch)) is RecordsRefused
    first = await stored()
    assert first == [one.id for one in batch[1:]]
    again = [record(node=node) for node in NODES]
    await bus.send(again)
    assert sorted(await stored()) == sorted([*first, *(one.id for one in again)])


@pytest.mark.parametrize("code", [REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS])
async def test_records_after_an_uncertain_result_are_no_duplicates_of_it(
    cluster: FakeKafka, bus: Any, stored: Stored, record: Any, code: int
) -> None:
    """One partition refuses its records; whether the other one has stored its own is unknown. What
    comes next is stored, although it is something else."""
    batch = [record(node=node) for node in NODES]
    cluster.fail(MESSAGE_TOO_LARGE, partition=0)
    cluster.fail(code, partition=1)
    assert type(await failure(bus, *batch)) is RecordsRefused
    others = [record(node=node) for node in NODES]
    await bus.send(others)
    assert {one.id for one in others} <= {*await stored()}


async def leaders(broker: str) -> list[int]:
    host, _, port = broker.rpartition(":")
    access = Access(tls=None, login=None)
    connection = await BrokerConnection.open(host, int(port), access, tried="failed")
    response = await connection.ask(MetadataRequest([TOPIC], allow_auto_topic_creation=False))
    connection.close()
    partitions = {one["partition"]: one["leader"] for one in response["topics"][0]["partitions"]}
    return [partitions[number] for number in range(3)]


async def test_records_after_an_uncertain_result_that_waited_are_no_duplicates_of_it(
    cluster: FakeKafka, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partition 1 stores its records and says otherwise. When partition 0 refuses its own, it has
    moved to a broker whose turn comes before that of partition 1."""
    monkeypatch.setattr(kafka_producer, "_MAX_LEADERS", 1)
    leader = (await leaders(cluster.brokers[0]))[1]
    cluster.move(TOPIC, leader)
    cluster.fail(NOT_ENOUGH_REPLICAS, partition=0)
    cluster.fail(NOT_ENOUGH_REPLICAS_AFTER_APPEND, partition=1)
    steps = iter(["look up", "send", "look up again"])

    async def access(_host: str) -> Access:
        if next(steps, "") == "look up again":
            cluster.move(TOPIC, (leader + 1) % 3)
            cluster.fail(MESSAGE_TOO_LARGE, partition=0)
        return Access(tls=None, login=None)

    def message(node: str, name: str) -> Message:
        return Message(node.encode(), b"{}", [("id", name.encode())])

    host, _, port = cluster.brokers[leader].rpartition(":")
    producer = kafka_producer.Producer(
        [kafka_producer.Address(host, int(port))], TOPIC, access=access
    )
    with pytest.raises(RecordsRefused):
        await producer.produce([message(NODES[0], "a"), message(NODES[1], "b")])
    assert await stored() == ["b"]
    await producer.produce([message(NODES[1], "c")])
    producer.close()
    assert await stored() == ["b", "c"]


async def test_the_most_severe_error_is_reported(cluster: FakeKafka, bus: Any, record: Any) -> None:
    cluster.fail(NOT_ENOUGH_REPLICAS, partition=0)
    cluster.fail(MESSAGE_TOO_LARGE, partition=1)
    cluster.fail(29, partition=2)
    caught = await failure(bus, *(record(node=node) for node in NODES))
    assert type(caught) is Refused
    assert "TOPIC_AUTHORIZATION_FAILED" in caught.message


async def test_a_broker_that_does_not_answer_is_asked_again(
    cluster: FakeKafka,
    bus: Any,
    stored: Stored,
    record: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = record()
    monkeypatch.setattr(kafka_wire, "_RESPONSE_TIMEOUT", 2.0)
    cluster.hang()
    await bus.send([one])
    assert await stored() == [one.id]


async def test_a_duplicate_counts_as_stored(cluster: FakeKafka, bus: Any, record: Any) -> None:
    cluster.fail(DUPLICATE_SEQUENCE_NUMBER)
    await bus.send([record()])


async def test_more_leaders_than_are_asked_at_a_time(
    cluster: FakeKafka, bus: Any, stored: Stored, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_producer, "_MAX_LEADERS", 1)
    monkeypatch.setattr(kafka_producer, "_MAX_CONNECTIONS", 1)
    batch = [record(node=node) for node in NODES * 3]
    await bus.send(batch)
    assert sorted(await stored()) == sorted(one.id for one in batch)
