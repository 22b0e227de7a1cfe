"""What must not reach a log line: registered secrets, and user and password in URLs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

import orjson

MASK: Final = "***"
MIN_SECRET_LENGTH: Final = 4
"""Characters. Shorter values are not masked: ordinary text is full of them."""

_USERINFO: Final = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")


_RELEASED: Final = 64
"""Number of values that stay masked after their last use, since a late line may contain them."""


class _Secrets:
    """All values to mask, and the texts by which lines are searched for them."""

    def __init__(self) -> None:
        self.texts: tuple[str, ...] = ()
        """The longest first, since one may be a part of another."""
        self.needles: tuple[bytes, ...] = ()
        """The same texts as they read inside a JSON string."""
        self._permanent: set[str] = set()
        self._used: Counter[str] = Counter()
        self._released: dict[str, None] = {}

    def add(self, value: str) -> None:
        self._permanent.add(value)
        self._update()

    def replace(self, before: Iterable[str], after: Iterable[str]) -> None:
        """Count one use less of the values `before`, one more of those `after`."""
        self._used.update(after)
        for value in before:
            self._used[value] -= 1
            if not self._used[value]:
                del self._used[value]
                self._released.pop(value, None)
                self._released[value] = None
        while len(self._released) > _RELEASED:
            del self._released[next(iter(self._released))]
        self._update()

    def _update(self) -> None:
        texts: set[str] = set()
        for value in (*self._permanent, *self._used, *self._released):
            texts |= _texts(value)
        # Replaced, not changed: other threads read them.
        self.needles = tuple(orjson.dumps(text)[1:-1] for text in texts)
        self.texts = tuple(sorted(texts, key=len, reverse=True))


_secrets = _Secrets()


class SecretsInUse:
    """The values that one user of secrets has now: every line masks them, as `register_secret`
    does, until the user has others. A rotated value is forgotten some time after its last use."""

    def __init__(self) -> None:
        self._values: frozenset[str] = frozenset()

    def set(self, *values: str) -> None:
        """Mask these values instead of the previous ones."""
        before, self._values = self._values, frozenset(values)
        if before != self._values:
            _secrets.replace(before, self._values)


def register_secret(value: str) -> None:
    """Mask `value` in every line from now on, also where it stands percent-encoded in a URL.

    Each line of a value of several lines, such as a private key, is masked by itself. Not meant for
    certificates: every line of the log is searched for all of these. For a value that can be
    rotated, use SecretsInUse.
    """
    _secrets.add(value)


def _texts(value: str) -> set[str]:
    parts = (value, value.strip(), *value.splitlines())
    texts = {text for part in parts for text in (part, quote(part, safe=""))}
    return {text for text in texts if len(text) >= MIN_SECRET_LENGTH}


def may_hold_secret(line: bytes) -> bool:
    """Whether a rendered JSON line needs `redact`. Cheap, since every line is checked."""
    if b"://" in line and b"@" in line:
        return True
    return any(needle in line for needle in _secrets.needles)


def redact_text(text: str) -> str:
    """`text` without secrets and without user and password in URLs."""
    for secret in _secrets.texts:
        text = text.replace(secret, MASK)
    return _USERINFO.sub(f"{MASK}@", text)


def redact(value: Any) -> Any:
    """`redact_text` on every string of a JSON value; numbers and names of fields stay."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {name: redact(member) for name, member in value.items()}
    if isinstance(value, list):
        return [redact(member) for member in value]
    return value
