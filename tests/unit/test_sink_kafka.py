"""What the kafka sink makes of records and settings, without a broker."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from gpuid_operator.api.sinks import KafkaSink, Sink
from gpuid_operator.sinks.base import RecordsRefused, Refused, SinkError, Unavailable
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.kafka_batches import Message, ProducerState, split
from gpuid_operator.sinks.kafka_errors import StateLost, described, error_kind
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.sinks.registry import open_sink
from tests.support.secret_source import Secrets

# Hashes of keys by murmur2, as the tests of Kafka's own clients have them.
HASHES = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"abc": 479470107,
}


def message(key: bytes, size: int = 1) -> Message:
    return Message(key, b"x" * size, [("id", key)])


@pytest.mark.parametrize(("key", "hashed"), HASHES.items())
@pytest.mark.parametrize("partitions", [1, 3, 12, 997])
def test_the_partition_of_a_key_is_that_of_javas_producer(
    key: bytes, hashed: int, partitions: int
) -> None:
    assert list(split([message(key)], partitions=partitions)) == [
        (hashed & 0x7FFFFFFF) % partitions
    ]


def test_a_batch_has_a_bounded_size_and_a_large_message_is_one_of_its_own() -> None:
    sizes = [400_000, 400_000, 400_000, 2_000_000, 1]
    (batches,) = split([message(b"a", size) for size in sizes], partitions=1).values()
    assert [batch.count for batch in batches] == [2, 1, 1, 1]


def test_a_batch_is_the_same_at_each_attempt() -> None:
    state = ProducerState(producer_id=7, epoch=0)
    (first, second) = (split([message(b"a")], partitions=1)[0][0] for _ in range(2))
    content = first.build(state, 0)
    state.acknowledge(0, first.count)
    assert first.build(state, 0) == content
    assert second.build(state, 0) != content
    assert state.sequences == {0: 1}


def test_sequence_numbers_begin_again_after_the_last_one() -> None:
    state = ProducerState(producer_id=7, epoch=0, sequences={0: 2**31 - 2})
    state.acknowledge(0, 5)
    assert state.sequences == {0: 3}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0, None),
        (46, None),
        (10, RecordsRefused),
        (87, RecordsRefused),
        (29, Refused),
        (31, Refused),
        (59, StateLost),
        (3, Unavailable),
        (6, Unavailable),
        (19, Unavailable),
        (-1, Unavailable),
        (999, Unavailable),
    ],
)
def test_what_an_error_code_means(code: int, kind: type[SinkError] | None) -> None:
    assert error_kind(code) is kind


def test_an_unknown_error_code_is_named_by_its_number() -> None:
    assert described(29) == "TOPIC_AUTHORIZATION_FAILED"
    assert described(999, "what the broker says") == "error 999: what the broker says"


@pytest.mark.parametrize(
    "fields",
    [
        *({"brokers": [one]} for one in ("a", "a:", "a b:1", "a:1,b:2", "a:1\n", "u@a:1", "[a:1")),
        *({"topic": name} for name in ("", "a b", "a/b", "a\n", "a" * 250)),
        {"brokers": []},
        {"brokers": ["a:1"] * 17},
    ],
)
def test_settings_that_no_cluster_has(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KafkaSink.model_validate({"brokers": ["kafka-1:9093"], "topic": "changes", **fields})


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
async def test_a_port_that_does_not_exist_is_refused(port: str) -> None:
    kafka = {"brokers": [f"kafka-1:{port}"], "topic": "changes"}
    sink = open_sink(
        Sink.model_validate({"name": "bus", "kafka": kafka}),
        secrets=Secrets(),
        context=SinkContext(http=HTTPClient(), write_records=lambda _: None),
    )
    with pytest.raises(Refused, match=f"kafka-1:{port} has no port between 1 and 65535"):
        await sink.send([])


def test_the_library_is_loaded_by_the_first_sink_only() -> None:
    code = "import sys; import gpuid_operator.operator.wiring; print('aiokafka' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
