"""What must not reach a log line: registered secrets, and user and password in URLs."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

import orjson

MASK: Final = "***"
MIN_SECRET_LENGTH: Final = 4
"""Characters. Shorter values are not masked: ordinary text is full of them."""

_USERINFO: Final = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")


class _Secrets:
    """The texts to mask, the longest first, since one may be a part of another."""

    texts: tuple[str, ...] = ()
    needles: tuple[bytes, ...] = ()
    """The same texts as they read inside a JSON string."""


def register_secret(value: str) -> None:
    """Mask `value` in every line from now on, also where it stands percent-encoded in a URL.

    Each line of a value of several lines, such as a private key, is masked by itself. Not meant for
    certificates: every line of the log is searched for all of these.
    """
    texts = set(_Secrets.texts)
    for part in (value, value.strip(), *value.splitlines()):
        texts.update(
            text for text in (part, quote(part, safe="")) if len(text) >= MIN_SECRET_LENGTH
        )
    # Replaced, not changed: other threads read them.
    _Secrets.needles = tuple(orjson.dumps(text)[1:-1] for text in texts)
    _Secrets.texts = tuple(sorted(texts, key=len, reverse=True))


def may_hold_secret(line: bytes) -> bool:
    """Whether a rendered JSON line needs `redact`. Cheap, since every line is checked."""
    if b"://" in line and b"@" in line:
        return True
    return any(needle in line for needle in _Secrets.needles)


def redact_text(text: str) -> str:
    """`text` without secrets and without user and password in URLs."""
    for secret in _Secrets.texts:
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
