"""The protocol of sinks, their errors, and helpers for messages without secrets."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Final, Protocol
from urllib.parse import quote

from gpuid_operator.api.record import Record

MAX_MESSAGE: Final = 512
"""Maximum length of the message of a SinkError in characters, as in `status.sinks[].lastError`."""
MAX_DETAIL: Final = 16 * 1024
"""Maximum length of the detail of a SinkError in characters. It may contain names that a server
chooses."""

_REDACTED: Final = "[secret]"


class Sink(Protocol):
    """A destination of records. The delivery loop runs one `send` at a time."""

    async def send(self, records: Sequence[Record]) -> None:
        """Deliver all records in order; return after the sink accepted every record.

        Sending records again is harmless: an ID always has the same content. Raises only SinkError,
        apart from a cancellation.
        """

    async def close(self) -> None:
        """Close connections. The sink is not used afterwards."""


class SinkError(Exception):
    """A delivery failed.

    SinkError
    ├── Unavailable          temporary: retry with back-off
    ├── Refused              permanent, for the whole sink: retry rarely
    │   ├── SecretMissing    the Secret or key does not exist
    │   ├── SecretNotAllowed the Secret does not allow this use or host
    │   └── AddressNotAllowed  the host is a link-local address (cloud metadata)
    └── RecordsRefused       the sink rejects these records: split the batch

    `message` is human-readable: what failed and what the sink reported, without secrets, in at most
    MAX_MESSAGE characters. `detail` has more for the log, such as SQL to run, or is empty.
    `retry_after` is the delay in seconds that the sink requests.
    """

    reason: str = "Failed"
    """CamelCase reason for the condition `Delivered`."""

    def __init__(self, message: str, *, retry_after: float | None = None, detail: str = "") -> None:
        self.message = one_line(message)
        self.retry_after = retry_after
        self.detail = detail[:MAX_DETAIL]
        super().__init__(self.message)


class Unavailable(SinkError):  # noqa: N818 - named after the state of the sink
    """Temporary: no connection, a timeout, an overload or an error of the server."""

    reason = "Unavailable"


class Refused(SinkError):  # noqa: N818
    """Permanent until a user changes something: credentials, permissions, address, table."""

    reason = "Refused"


class SecretMissing(Refused):
    """A Secret or its key does not exist or is not text."""

    reason = "SecretNotFound"


class SecretNotAllowed(Refused):
    """The Secret lacks the label, or its annotation does not name the sink's host."""

    reason = "SecretNotAllowed"


class AddressNotAllowed(Refused):
    """The sink's host is a link-local address, where clouds serve credentials."""

    reason = "AddressNotAllowed"


class RecordsRefused(SinkError):  # noqa: N818
    """The sink is available and rejects this content (HTTP 400, 413, 422; the type of a column)."""

    reason = "RecordRefused"


def one_line(text: str, limit: int = MAX_MESSAGE) -> str:
    """One printable line of at most `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def scrub(text: str, secrets: Iterable[str], *, truncated: bool = False) -> str:
    """Replace every secret in a text, also in URL, JSON and base64 encoding.

    If the text is `truncated`, its end may contain the beginning of a secret and is dropped.
    """
    forms = {form for secret in secrets for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, _REDACTED)
    if truncated and forms:
        text = text[: -max(map(len, forms))]
    return text


def _forms(secret: str) -> set[str]:
    """The secret, also without surrounding white space, in plain text and common encodings."""
    forms = set()
    for value in (secret, secret.strip()):
        forms |= {
            value,
            quote(value, safe=""),
            json.dumps(value)[1:-1],
            base64.b64encode(value.encode()).decode(),
        }
    return forms - {""}
