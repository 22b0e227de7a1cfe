"""What every sink is: the protocol, the errors that it may raise, and messages without secrets."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Final, Protocol
from urllib.parse import quote

from gpuid_operator.api.record import Record

MAX_MESSAGE: Final = 512
"""Longest message of a SinkError, in characters: `status.sinks[].lastError` holds no more."""

_REDACTED: Final = "[secret]"


class Sink(Protocol):
    """A destination of records. One `send` at a time; the delivery loop sees to that."""

    async def send(self, records: Sequence[Record]) -> None:
        """Deliver all of them, in their order; return only when the sink has taken every one.

        Sending the same records again is harmless: an id never comes with two contents.
        Raises SinkError, and nothing else but what cancels the task.
        """

    async def close(self) -> None:
        """Release connections. The sink is not used afterwards."""


class SinkError(Exception):
    """Delivery failed.

    SinkError
    ├── Unavailable          temporary: try again with back-off
    ├── Refused              permanent, concerns the whole sink: go on at the slow end
    │   ├── SecretMissing    no such Secret or key
    │   ├── SecretNotAllowed the Secret is not for sinks, or not for this host
    │   └── AddressNotAllowed  the host is a link-local address (cloud metadata)
    └── RecordsRefused       the sink refuses these records: halve the batch

    `message` is for people: what was tried and what came back, in the sink's own words, without
    secrets, at most MAX_MESSAGE characters. `detail` is more of it for the log, such as SQL to
    run; empty where the message says all. `retry_after` is how long the sink asks to wait, in
    seconds.
    """

    reason: str = "Failed"
    """One CamelCase word for the condition `Delivered`."""

    def __init__(self, message: str, *, retry_after: float | None = None, detail: str = "") -> None:
        self.message = one_line(message)
        self.retry_after = retry_after
        self.detail = detail
        super().__init__(self.message)


class Unavailable(SinkError):  # noqa: N818 - what it says of the sink is its name
    """Temporary: no connection, a time-out, an overload, a fault of the server."""

    reason = "Unavailable"


class Refused(SinkError):  # noqa: N818
    """Permanent until somebody changes something: credentials, rights, address, table."""

    reason = "Refused"


class SecretMissing(Refused):
    """A Secret or its key is not there, or is no text."""

    reason = "SecretNotFound"


class SecretNotAllowed(Refused):
    """The Secret lacks the label, or its annotation does not name the sink's host."""

    reason = "SecretNotAllowed"


class AddressNotAllowed(Refused):
    """The sink's host is a link-local address, where clouds serve credentials."""

    reason = "AddressNotAllowed"


class RecordsRefused(SinkError):  # noqa: N818
    """The sink is there and refuses this content (HTTP 400, 413, 422; a column's type)."""

    reason = "RecordRefused"


def one_line(text: str, limit: int = MAX_MESSAGE) -> str:
    """One printable line of at most `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def scrub(text: str, secrets: Iterable[str], *, truncated: bool = False) -> str:
    """The text with every secret replaced, also in URL, JSON and base64 encoding.

    `truncated`: the text was cut at some length, so that its end may hold the beginning of a
    secret; that much of the end is dropped.
    """
    forms = {form for secret in secrets for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, _REDACTED)
    if truncated and forms:
        text = text[: -max(map(len, forms))]
    return text


def _forms(secret: str) -> set[str]:
    """The secret as it is (also without the white space around it), and as others may encode it."""
    forms = set()
    for value in (secret, secret.strip()):
        forms |= {
            value,
            quote(value, safe=""),
            json.dumps(value)[1:-1],
            base64.b64encode(value.encode()).decode(),
        }
    return forms - {""}
