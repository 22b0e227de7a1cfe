"""What the error codes of Kafka mean for a sink."""

from __future__ import annotations

from typing import Final

from aiokafka.errors import for_code

from gpuid_operator.sinks.base import RecordsRefused, Refused, SinkError, Unavailable

# https://kafka.apache.org/protocol.html#protocol_error_codes
UNKNOWN_TOPIC: Final = 3
_STORED: Final = frozenset({0, 46})
"""NONE, DUPLICATE_SEQUENCE_NUMBER."""
_RECORDS: Final = frozenset({10, 18, 87})
"""MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE, INVALID_RECORD."""
_SINK: Final = frozenset({17, 21, 29, 31, 32, 34, 35, 42, 43, 44, 53, 54, 58})
"""INVALID_TOPIC_EXCEPTION, INVALID_REQUIRED_ACKS, authorization, INVALID_TIMESTAMP (a clock),
ILLEGAL_SASL_STATE, UNSUPPORTED_VERSION, INVALID_REQUEST, UNSUPPORTED_FOR_MESSAGE_FORMAT,
POLICY_VIOLATION, SECURITY_DISABLED, SASL_AUTHENTICATION_FAILED."""
_STATE_LOST: Final = frozenset({45, 47, 59})
"""OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH, UNKNOWN_PRODUCER_ID."""


class StateLost(Unavailable):
    """The broker does not know the producer any more. Another attempt needs another producer ID,
    and so another call."""


def error_kind(code: int) -> type[SinkError] | None:
    """
    | code of a response                      |                                     |
    |-----------------------------------------|-------------------------------------|
    | none, DUPLICATE_SEQUENCE_NUMBER         | None: the broker has the records    |
    | too large, INVALID_RECORD               | RecordsRefused                      |
    | rights, topic, settings                 | Refused                             |
    | the broker forgot the producer          | StateLost                           |
    | others: leader, replicas, unknown codes | Unavailable, again in the same call |
    """
    if code in _STORED:
        return None
    if code in _RECORDS:
        return RecordsRefused
    if code in _SINK:
        return Refused
    return StateLost if code in _STATE_LOST else Unavailable


def severity(error: BaseException) -> int:
    """What concerns the whole sink comes before what concerns records, and an error that another
    attempt may solve comes last."""
    kinds = (Refused, RecordsRefused, StateLost, Unavailable)
    return next((n for n, kind in enumerate(kinds) if isinstance(error, kind)), -1)


def described(code: int, said: str | None = None) -> str:
    """An error code by its name, and what the broker says about it."""
    known = for_code(code)
    name = known.message if known.errno == code else f"error {code}"
    return f"{name}: {said}" if said else name
