"""Messages for Kafka, in batches of one partition each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from aiokafka.partitioner import murmur2
from aiokafka.record.default_records import DefaultRecordBatchBuilder

_MAX_BATCH: Final = 1_000_000
"""Maximum size of a batch of one partition in bytes; a topic's max.message.bytes is 1,048,588 by
default."""


class Message(NamedTuple):
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass(kw_only=True)
class ProducerState:
    """What the brokers know of this producer."""

    producer_id: int
    epoch: int
    sequences: dict[int, int] = field(default_factory=dict)
    """The sequence number of the next message, by partition."""

    def acknowledge(self, partition: int, count: int) -> None:
        self.sequences[partition] = (self.sequences.get(partition, 0) + count) % 2**31


class Batch:
    """A batch of one partition, which is the same at each attempt."""

    def __init__(self) -> None:
        self.count = 0
        self._builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=False,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=0,
            batch_size=_MAX_BATCH,
        )
        self._content: bytes | None = None

    def append(self, message: Message, now: int) -> bool:
        """Whether the message fits into the batch; `now` is in milliseconds."""
        key, value, headers = message
        if self._builder.append(self.count, now, key, value, headers) is None:
            return False
        self.count += 1
        return True

    def build(self, state: ProducerState, partition: int) -> bytes:
        if self._content is None:
            sequence = state.sequences.get(partition, 0)
            self._builder.set_producer_state(state.producer_id, state.epoch, sequence)
            self._content = bytes(self._builder.build())
        return self._content


def split(messages: Sequence[Message], *, partitions: int) -> dict[int, list[Batch]]:
    """Batches by partition: the partition that Java's producer chooses for the key.

    The time of a message is that of sending, from which a topic's retention counts.
    """
    batches: dict[int, list[Batch]] = {}
    now = int(time.time() * 1000)
    for message in messages:
        partition = (murmur2(message.key) & 0x7FFFFFFF) % partitions
        queue = batches.setdefault(partition, [])
        if not queue or not queue[-1].append(message, now):
            queue.append(Batch())
            queue[-1].append(message, now)  # the first one always fits
    return batches
