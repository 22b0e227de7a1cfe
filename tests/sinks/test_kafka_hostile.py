"""Kafka brokers that try to exhaust the operator, or to send it elsewhere."""

from __future__ import annotations

import re
import ssl
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiokafka.protocol.admin import (
    ApiVersionResponse_v0,
    SaslAuthenticateResponse_v1,
    SaslHandShakeResponse_v1,
)
from aiokafka.protocol.metadata import MetadataResponse_v5
from aiokafka.protocol.produce import ProduceResponse_v7
from aiokafka.protocol.transaction import InitProducerIdResponse_v0

from gpuid_operator.api.sinks import Sink
from gpuid_operator.sinks.base import AddressNotAllowed, Refused, SinkError, Unavailable
from gpuid_operator.sinks.bounded_socket import MAX_RECEIVED
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.kafka_wire import MAX_FRAME, MAX_ITERATIONS
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.sinks.registry import open_sink
from tests.support.hostile_servers import (
    FLOOD,
    MIB,
    Behaviour,
    HostileServer,
    Reply,
    kafka,
    kafka_response,
    over_tls,
)

Failure = Callable[..., Awaitable[SinkError]]

PASSWORD = "the-password-nobody-may-see"
TOPIC = "changes"
ENOUGH = FLOOD // 4
TEXT = b"x" * MIB
# The highest version that aiokafka knows of some requests.
KEYS = {
    "produce": (0, 7),
    "metadata": (3, 5),
    "handshake": (17, 1),
    "id": (22, 0),
    "log in": (36, 1),
}
VERSIONS = ApiVersionResponse_v0(0, [(key, 0, most) for key, most in KEYS.values()]).encode()
MECHANISMS = SaslHandShakeResponse_v1(0, ["SCRAM-SHA-256", "PLAIN"]).encode()
PRODUCER_ID = InitProducerIdResponse_v0(0, 0, 1, 0).encode()
MANY = struct.pack("!i", 2**31 - 1)
NOT_KAFKA = "violates the protocol of Kafka"
TOO_LONG = rf"sent a response of \d+ bytes, more than {MAX_FRAME}"


def metadata(
    host: str | None = "localhost", port: int = 9, *, partitions: range = range(1), leader: int = 1
) -> bytes:
    leaders: list[Any] = [(0, number, leader, [1], [1], []) for number in partitions]
    topics = [(0, TOPIC, False, leaders)]
    return bytes(MetadataResponse_v5(0, [(1, host, port, None)], "c", 1, topics).encode())


def scram(answer: bytes) -> Reply:
    """The broker's first message of SCRAM; `%b` in it is the nonce of the client."""

    def reply(request: bytes) -> bytes:
        nonce = request.rpartition(b"r=")[2]
        said = answer.replace(b"%b", nonce)
        return bytes(SaslAuthenticateResponse_v1(0, None, said, 0).encode())

    return reply


BROKERS = {
    "no Kafka": (kafka(flood=TEXT), TOO_LONG),
    "long response": (kafka(flood=struct.pack("!i", 2**31 - 1) + TEXT), TOO_LONG),
    "negative length": (kafka(flood=struct.pack("!i", -1)), "sent a response of -1 bytes"),
    "empty responses": (kafka(flood=struct.pack("!i", 0)), "sent a response of 0 bytes"),
    "short responses": (kafka(flood=struct.pack("!ii", 4, 1)), NOT_KAFKA),
    "other number": (
        kafka(flood=kafka_response(7, VERSIONS)),
        rf"{NOT_KAFKA} \(response 7 to request 1\)",
    ),
    "endless array": (kafka(flood=kafka_response(1, b"\0\0" + MANY)), NOT_KAFKA),
    "null array": (kafka(flood=kafka_response(1, b"\0\0\xff\xff\xff\xff")), NOT_KAFKA),
    "responses": (kafka(flood=kafka_response(1, VERSIONS)), NOT_KAFKA),
    "no versions": (kafka(b"\0\0\0\0\0\0", flood=TEXT), "does not support MetadataRequest"),
    "other versions": (
        kafka(ApiVersionResponse_v0(0, [(3, 90, 99)]).encode(), flood=TEXT),
        "does not support MetadataRequest",
    ),
    "many brokers": (
        kafka(VERSIONS, flood=kafka_response(2, b"\0\0\0\0" + MANY + b"\0" * (MAX_FRAME - 12))),
        NOT_KAFKA,
    ),
    "many topics": (
        kafka(
            VERSIONS,
            flood=kafka_response(2, b"\0" * 14 + MANY + b"\0" * (MAX_FRAME - 22)),
        ),
        NOT_KAFKA,
    ),
    "another topic": (
        kafka(VERSIONS, MetadataResponse_v5(0, [], None, 1, []).encode(), flood=TEXT),
        NOT_KAFKA,
    ),
    "no partitions": (kafka(VERSIONS, metadata(partitions=range(0)), flood=TEXT), NOT_KAFKA),
    "missing partitions": (
        kafka(VERSIONS, metadata(partitions=range(2, 4)), flood=TEXT),
        NOT_KAFKA,
    ),
    "port": (kafka(VERSIONS, metadata(port=70_000), flood=TEXT), NOT_KAFKA),
    "empty host": (kafka(VERSIONS, metadata(host=""), flood=TEXT), NOT_KAFKA),
    "no host": (kafka(VERSIONS, metadata(host=None), flood=TEXT), NOT_KAFKA),
    "after metadata": (kafka(VERSIONS, metadata(), flood=TEXT), TOO_LONG),
}


@pytest.fixture
async def failure(record: Any, make_secrets: Any) -> AsyncIterator[Failure]:
    """The error of a sink that sends a record to a broker."""
    secrets = make_secrets(user="gpuid", password=PASSWORD)

    async def send(port: int, authority: str | None = None, **fields: Any) -> SinkError:
        secrets.values["ca"] = authority or ""
        reference = {"caSecretRef": {"name": "kafka", "key": "ca"}}
        settings = {"tls": reference} if authority else {"insecure": True}
        spec = {"brokers": [f"localhost:{port}"], "topic": TOPIC, **settings, **fields}
        sink = open_sink(
            Sink.model_validate({"name": "bus", "kafka": spec}),
            secrets=secrets,
            context=SinkContext(http=HTTPClient(), write_records=lambda _: None),
        )
        with pytest.raises(SinkError) as caught:
            await sink.send([record()])
        assert PASSWORD not in caught.value.message
        return caught.value

    tracemalloc.start()
    yield send
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * MIB


def sasl(mechanism: str = "SCRAM-SHA-256") -> dict[str, Any]:
    references = {f"{key}SecretRef": {"name": "kafka", "key": key} for key in ("user", "password")}
    return {"sasl": {"mechanism": mechanism} | references}


@pytest.mark.parametrize(("behaviour", "reason"), BROKERS.values(), ids=BROKERS)
async def test_a_broker_cannot_send_without_end(
    behaviour: Behaviour, reason: str, failure: Failure
) -> None:
    async with HostileServer(behaviour) as server:
        error = await failure(server.port)
    assert type(error) is Refused
    assert f"failed to produce to topic {TOPIC} at localhost:{server.port}: " in error.message
    assert re.search(reason, error.message)
    assert server.sent < ENOUGH


@pytest.mark.parametrize(("behaviour", "reason"), BROKERS.values(), ids=BROKERS)
async def test_a_broker_cannot_send_without_end_over_tls(
    behaviour: Behaviour, reason: str, failure: Failure, certificates: Any
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    async with HostileServer(over_tls(behaviour, context)) as server:
        error = await failure(server.port, certificates.authority)
    assert type(error) is Refused
    assert re.search(reason, error.message)
    assert server.sent < ENOUGH


async def test_a_response_of_the_maximum_length_costs_little(failure: Failure) -> None:
    """Each byte of it is part of a list."""
    apis = [(number, 0, 0) for number in range((MAX_FRAME - 10) // 6)]
    longest = ApiVersionResponse_v0(0, apis).encode()
    async with HostileServer(kafka(longest, flood=TEXT)) as server:
        error = await failure(server.port)
    assert re.search(TOO_LONG, error.message)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"r=%bxyz,s=c2FsdA==,i=1", "demands 1 SCRAM iterations"),
        (b"r=%bxyz,s=c2FsdA==,i=4095", "demands 4095 SCRAM iterations"),
        (b"r=%bxyz,s=c2FsdA==,i=100001", "demands 100001 SCRAM iterations"),
        (b"r=%bxyz,s=c2FsdA==,i=4096,i=2147483647", "demands 2147483647 SCRAM iterations"),
        (b"r=%bxyz,s=c2FsdA==,i=1_000_000_000", "demands 1000000000 SCRAM iterations"),
        (b"r=%bxyz,s=c2FsdA==,i=" + b"9" * 100, "demands 9+ SCRAM iterations"),
        (b"r=%bxyz,s=c2FsdA==,i=" + b"9" * 10_000, NOT_KAFKA),
        (b"r=%bxyz,s=c2FsdA==", NOT_KAFKA),
        (b"r=other,s=c2FsdA==,i=4096", NOT_KAFKA),
        (b"\xff", NOT_KAFKA),
        (b"", NOT_KAFKA),
    ],
)
async def test_a_broker_cannot_demand_work_without_end(
    answer: bytes, reason: str, failure: Failure
) -> None:
    async with HostileServer(kafka(VERSIONS, MECHANISMS, scram(answer), flood=TEXT)) as server:
        error = await failure(server.port, **sasl())
    assert type(error) is Refused
    assert re.search(reason, error.message)


@pytest.mark.parametrize("final", [b"v=c2FsdA==", b"e=other-error", b"", b"\xff"])
async def test_a_broker_that_does_not_know_the_password_is_refused(
    final: bytes, failure: Failure
) -> None:
    first = scram(b"r=%bxyz,s=c2FsdA==,i=4096")
    last = SaslAuthenticateResponse_v1(0, None, final, 0).encode()
    async with HostileServer(kafka(VERSIONS, MECHANISMS, first, last, flood=TEXT)) as server:
        error = await failure(server.port, **sasl())
    assert type(error) is Refused
    assert NOT_KAFKA in error.message


async def test_iterations_within_the_bound_are_computed(failure: Failure) -> None:
    first = scram(b"r=%bxyz,s=c2FsdA==,i=" + str(MAX_ITERATIONS).encode())
    async with HostileServer(kafka(VERSIONS, MECHANISMS, first, flood=TEXT)) as server:
        error = await failure(server.port, **sasl())
    assert re.search(TOO_LONG, error.message)


async def test_what_a_broker_says_has_no_secret_and_a_bounded_length(failure: Failure) -> None:
    said = f"no {PASSWORD}" + "x" * 30_000
    refusal = SaslAuthenticateResponse_v1(58, said, None, 0).encode()
    async with HostileServer(kafka(VERSIONS, MECHANISMS, refusal, flood=TEXT)) as server:
        error = await failure(server.port, **sasl("PLAIN"))
    assert "SASL_AUTHENTICATION_FAILED: no [secret]xxx" in error.message
    assert len(error.message) <= 512


async def test_a_mechanism_that_the_broker_lacks_is_refused_with_those_that_it_has(
    failure: Failure,
) -> None:
    refusal = SaslHandShakeResponse_v1(33, ["PLAIN", "GSSAPI"]).encode()
    async with HostileServer(kafka(VERSIONS, refusal, flood=TEXT)) as server:
        error = await failure(server.port, **sasl())
    assert "UNSUPPORTED_SASL_MECHANISM: enabled SASL mechanisms: PLAIN, GSSAPI" in error.message


@pytest.mark.parametrize("host", ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254"])
async def test_a_broker_cannot_name_a_link_local_one(host: str, failure: Failure) -> None:
    behaviour = kafka(VERSIONS, metadata(host), PRODUCER_ID, flood=TEXT)
    async with HostileServer(behaviour) as server:
        error = await failure(server.port)
    assert type(error) is AddressNotAllowed
    assert host in error.message


@pytest.mark.parametrize("partitions", [[], [1], [0, 1]])
async def test_a_response_about_other_partitions_is_refused(
    partitions: list[int], failure: Failure
) -> None:
    answers = [(number, 0, 0, -1, 0) for number in partitions]
    answer = ProduceResponse_v7([(TOPIC, answers)], 0).encode()

    def behaviour(peer: Any) -> None:
        one = metadata(port=server.port)
        # Over one connection, since the broker is where the sink is connected to.
        kafka(VERSIONS, one, PRODUCER_ID, answer, flood=TEXT)(peer)

    server = HostileServer(behaviour)
    async with server:
        error = await failure(server.port)
    assert type(error) is Refused
    assert NOT_KAFKA in error.message


async def test_the_leader_is_asked_to_wait_for_all_replicas(record: Any, make_secrets: Any) -> None:
    """`acks` is the number after the transactional id, which is null, in a ProduceRequest since
    version 3. -1 means all replicas that are in sync."""
    asked = []

    def stored(request: bytes) -> bytes:
        key, version, _, client = struct.unpack_from("!hhih", request)
        transaction, acks = struct.unpack_from("!hh", request, 10 + client)
        asked.append((key, version, transaction, acks))
        return bytes(ProduceResponse_v7([(TOPIC, [(0, 0, 0, -1, 0)])], 0).encode())

    def behaviour(peer: Any) -> None:
        kafka(VERSIONS, metadata(port=server.port), PRODUCER_ID, stored, flood=TEXT)(peer)

    server = HostileServer(behaviour)
    async with server:
        spec = {"brokers": [f"localhost:{server.port}"], "topic": TOPIC, "insecure": True}
        sink = open_sink(
            Sink.model_validate({"name": "bus", "kafka": spec}),
            secrets=make_secrets(),
            context=SinkContext(http=HTTPClient(), write_records=lambda _: None),
        )
        await sink.send([record()])
        await sink.close()
    assert asked == [(*KEYS["produce"], -1, -1)]


async def test_bytes_within_a_frame_and_its_connection_are_bounded() -> None:
    assert 2 * MAX_FRAME <= MAX_RECEIVED


async def test_a_broker_that_has_lost_its_cluster_leaves_others_their_turn(
    record: Any, make_secrets: Any
) -> None:
    lost = InitProducerIdResponse_v0(0, 15, -1, -1).encode()  # COORDINATOR_NOT_AVAILABLE
    async with (
        HostileServer(kafka(VERSIONS, metadata(), lost, flood=TEXT)) as first,
        HostileServer(kafka(flood=TEXT)) as second,
    ):
        brokers = [f"localhost:{one.port}" for one in (first, second)]
        settings = {"brokers": brokers, "topic": TOPIC, "insecure": True}
        sink = open_sink(
            Sink.model_validate({"name": "bus", "kafka": settings}),
            secrets=make_secrets(),
            context=SinkContext(http=HTTPClient(), write_records=lambda _: None),
        )
        with pytest.raises(Unavailable, match=rf"{brokers[0]}: COORDINATOR_NOT_AVAILABLE"):
            await sink.send([record()])
        with pytest.raises(Refused, match=rf"{brokers[1]}: the server {TOO_LONG}"):
            await sink.send([record()])
        with pytest.raises(Unavailable, match=brokers[0]):
            await sink.send([record()])


async def test_a_broker_without_a_leader_is_unavailable(
    failure: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpuid_operator.sinks.kafka_producer._DELIVERY_TIMEOUT", 2.0)
    behaviour = kafka(
        VERSIONS, metadata(leader=-1), PRODUCER_ID, *(metadata(leader=-1),) * 9, flood=TEXT
    )
    async with HostileServer(behaviour) as server:
        error = await failure(server.port)
    assert type(error) is Unavailable
    assert "partition 0 has no leader" in error.message
