"""An idempotent producer for one topic: it sends messages to the leaders of their partitions.

aiokafka's own producer does not suit a sink: while a broker is down, it retries for ever, its
`stop` waits for ever, and why it fails is only in its log. It also creates missing topics.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from gpuid_operator.sinks.base import RecordsRefused, Refused, SinkError, Unavailable
from gpuid_operator.sinks.kafka_access import Access
from gpuid_operator.sinks.kafka_batches import Batch, Message, ProducerState, split
from gpuid_operator.sinks.kafka_errors import UNKNOWN_TOPIC, StateLost, severity
from gpuid_operator.sinks.kafka_wire import BrokerConnection

_DELIVERY_TIMEOUT: Final = 30.0
_ACK_TIMEOUT_MS: Final = 10_000
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0
_MAX_IDLE: Final = 60.0
"""Age in seconds from which a connection is made again, since firewalls forget idle ones."""
_MAX_AGE: Final = 300.0
"""Age in seconds from which the brokers are asked again, for partitions that were added."""
_MAX_LEADERS: Final = 16
"""Maximum number of brokers at a time. A broker may name any number of others."""
_MAX_CONNECTIONS: Final = 64

_ALL_REPLICAS: Final = -1
_NO_TRANSACTION: Final = 2**31 - 1


class Address(NamedTuple):
    host: str
    port: int


@dataclass(frozen=True, kw_only=True)
class _Cluster:
    """What a broker said about the topic."""

    brokers: dict[int, Address]
    leaders: tuple[int, ...]
    """By partition; -1 where there is none."""
    time: float
    """When it said so, on the monotonic clock."""

    def leader(self, partition: int) -> Address | None:
        # A partition may be missing only if the topic was created again meanwhile.
        node = self.leaders[partition] if partition < len(self.leaders) else -1
        return self.brokers.get(node)


class Producer:
    """Keeps connections and its producer ID from one call to the next, until one fails."""

    def __init__(
        self,
        brokers: Sequence[Address],
        topic: str,
        *,
        access: Callable[[str], Awaitable[Access]],
    ) -> None:
        """`access` tells how to connect to a host, or raises SinkError."""
        self._bootstrap = deque(brokers)
        self._topic = topic
        self._access = access
        self._connections: dict[Address, tuple[float, BrokerConnection]] = {}
        self._cluster: _Cluster | None = None
        self._state: ProducerState | None = None

    async def produce(self, messages: Sequence[Message]) -> None:
        """Return after all in-sync replicas have all messages, in order per key. Raises SinkError.

        An attempt whose result is unknown is repeated under the same sequence numbers, so that the
        broker stores each message once. After an error, the messages may be there nevertheless.
        """
        failed: list[Unavailable] = []
        try:
            async with asyncio.timeout(_DELIVERY_TIMEOUT):
                await self._deliver(messages, failed)
        except TimeoutError as error:
            self.close()
            raise (
                failed[-1] if failed else Unavailable(f"{self._tried()}: no response in time")
            ) from error
        except RecordsRefused:
            raise  # the broker has not counted them
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for _, connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._cluster = self._state = None
        # The next call begins with another broker. That one may have taken all the time, or may
        # have lost its cluster.
        self._bootstrap.rotate(-1)

    async def _deliver(self, messages: Sequence[Message], failed: list[Unavailable]) -> None:
        if (
            self._cluster is None
            or self._state is None
            or time.monotonic() - self._cluster.time > _MAX_AGE
        ):
            connection, self._cluster = await self._look_up()
            self._state = self._state or await self._register(connection)
        # It comes back when every result is known. Otherwise the broker could take other messages
        # under the same sequence numbers for duplicates.
        state, self._state = self._state, None
        batches = split(messages, partitions=len(self._cluster.leaders))
        pause = _FIRST_PAUSE
        while batches:
            errors = await self._send_first(batches, self._cluster, state)
            if not errors:
                continue
            error = min(errors, key=severity)
            if isinstance(error, StateLost) or not isinstance(error, Unavailable):
                if not failed and all(isinstance(one, RecordsRefused) for one in errors):
                    self._state = state
                raise error
            failed.append(error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                _, self._cluster = await self._look_up()
            except Unavailable as error:
                failed.append(error)
        self._state = state

    async def _send_first(
        self, batches: dict[int, list[Batch]], cluster: _Cluster, state: ProducerState
    ) -> list[BaseException]:
        """Send the first batch of each partition, and remove it when it is acknowledged. Returns
        the errors of others."""
        errors: list[BaseException] = []
        by_leader: dict[Address, dict[int, bytes]] = {}
        for partition, (batch, *_) in batches.items():
            leader = cluster.leader(partition)
            if leader is None:
                errors.append(Unavailable(f"{self._tried()}: partition {partition} has no leader"))
            elif leader in by_leader or len(by_leader) < _MAX_LEADERS:
                content = batch.build(state, partition)
                by_leader.setdefault(leader, {})[partition] = content
        results = await asyncio.gather(
            *(self._send(leader, contents) for leader, contents in by_leader.items()),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                errors.append(result)
                continue
            for partition, error in result.items():
                if error is not None:
                    errors.append(error)
                    continue
                state.acknowledge(partition, batches[partition].pop(0).count)
                if not batches[partition]:
                    del batches[partition]
        return errors

    async def _send(
        self, leader: Address, contents: dict[int, bytes]
    ) -> dict[int, SinkError | None]:
        """The error of each partition, or None."""
        connection = await self._connection(leader)
        response = await connection.ask(
            ProduceRequest(
                transactional_id=None,
                required_acks=_ALL_REPLICAS,
                timeout=_ACK_TIMEOUT_MS,
                topics=[(self._topic, list(contents.items()))],
            )
        )
        try:
            ((name, answers),) = ((t["topic"], t["partitions"]) for t in response["topics"])
            results = {
                answer["partition"]: connection.failure(answer["error_code"]) for answer in answers
            }
            if name != self._topic or results.keys() != contents.keys():
                raise ValueError("a response to another request")
        except (TypeError, ValueError) as error:
            raise connection.violation(error) from error
        return results

    async def _look_up(self) -> tuple[BrokerConnection, _Cluster]:
        """The brokers and the leaders of the topic, from the first broker that answers."""
        known = self._cluster.brokers.values() if self._cluster else ()
        candidates = dict.fromkeys((*self._bootstrap, *list(known)[:_MAX_LEADERS]))
        failure: Unavailable | None = None
        for address in candidates:
            try:
                return await self._look_up_at(address)
            except Unavailable as error:
                if address == self._bootstrap[0]:
                    self._bootstrap.rotate(-1)
                failure = failure or error
        raise failure or Unavailable(f"{self._tried()}: no broker")

    async def _look_up_at(self, address: Address) -> tuple[BrokerConnection, _Cluster]:
        connection = await self._connection(address)
        response = await connection.ask(
            MetadataRequest([self._topic], allow_auto_topic_creation=False)
        )
        try:
            (topic,) = response["topics"]
            if topic["error_code"] == UNKNOWN_TOPIC:
                raise Refused(
                    f"{self._tried(address)}: topic {self._topic} does not exist: create it"
                )
            if error := connection.failure(topic["error_code"]):
                raise error
            brokers = {
                broker["node_id"]: Address(broker["host"] or "", int(broker["port"]))
                for broker in response["brokers"]
            }
            leaders = {one["partition"]: int(one["leader"]) for one in topic["partitions"]}
            if not leaders or leaders.keys() != set(range(len(leaders))):
                raise ValueError("partitions are missing")
            if any(not 0 < broker.port < 65536 or not broker.host for broker in brokers.values()):
                raise ValueError("a broker without address")
        except (TypeError, ValueError) as error:
            raise connection.violation(error) from error
        return connection, _Cluster(
            brokers=brokers,
            leaders=tuple(leaders[partition] for partition in range(len(leaders))),
            time=time.monotonic(),
        )

    async def _register(self, connection: BrokerConnection) -> ProducerState:
        """A producer ID, which any broker gives."""
        response = await connection.ask(
            InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=_NO_TRANSACTION)
        )
        if error := connection.failure(response["error_code"]):
            raise error
        return ProducerState(producer_id=response["producer_id"], epoch=response["producer_epoch"])

    async def _connection(self, address: Address) -> BrokerConnection:
        """A connection that is open, and was made with the current credentials."""
        access = await self._access(address.host)
        now = time.monotonic()
        used, connection = self._connections.pop(address, (now, None))
        if connection is not None:
            if connection.is_open and connection.access == access and now - used < _MAX_IDLE:
                self._connections[address] = now, connection
                return connection
            connection.close()
        while len(self._connections) >= _MAX_CONNECTIONS:
            _, oldest = self._connections.pop(next(iter(self._connections)))
            oldest.close()
        connection = await BrokerConnection.open(*address, access, tried=self._tried(address))
        self._connections[address] = now, connection
        return connection

    def _tried(self, address: Address | None = None) -> str:
        at = f" at {address.host}:{address.port}" if address else ""
        return f"failed to produce to topic {self._topic}{at}"
