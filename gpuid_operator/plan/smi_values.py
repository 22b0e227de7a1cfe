"""Parses single values of `nvidia-smi -q -x`: texts, numbers, addresses, missing values."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from gpuid_operator.api.values import fitting

MAX_TEXT: Final = 128
"""Maximum length of a fact in characters, and in bytes as stored."""

_MISSING: Final = frozenset(
    {
        "",
        "n/a",
        "requested functionality has been deprecated",
        # What nvidia-smi prints in place of a value for each error code of NVML.
        "already initialized",
        "argument version mismatch",
        "corrupted inforom",
        "driver not loaded",
        "driver/library version mismatch",
        "err!",
        "function not found",
        "gpu access blocked by the operating system",
        "gpu is inaccessible",
        "gpu is lost",
        "gpu requires reset",
        "in use by another client",
        "insufficient external power",
        "insufficient memory",
        "insufficient permissions",
        "insufficient resources",
        "insufficient size",
        "interrupt request issue",
        "invalid argument",
        "invalid frequency",
        "no data",
        "not found",
        "not supported",
        "nvml shared library not found",
        "system is not in ready state",
        "timeout",
        "uninitialized",
        "unknown error",
        "vgpu ecc not supported",
    }
)
_MISSING_STARTS: Final = ("gpu is lost", "gpu requires reset", "gpu is inaccessible")
_LONGEST_MISSING: Final = max(map(len, _MISSING)) + 2
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_PCI: Final = re.compile(
    r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7])", re.IGNORECASE
)


def text_of(raw: str | None) -> str | None:
    """The value as text; None if nvidia-smi reports none.

    Control characters are removed, and the text is truncated to `MAX_TEXT` bytes as stored. A value
    that was not UTF-8 counts as missing.
    """
    if raw is None:
        return None
    # A long one is no fact, and a cache of them would take gigabytes.
    return _text(raw) if len(raw) <= 2 * MAX_TEXT else _text.__wrapped__(raw)


@lru_cache(maxsize=1024)  # the GPUs of a fleet have most texts in common
def _text(raw: str) -> str | None:
    text = raw.strip()
    if not text.isprintable():
        text = "".join(c for c in " ".join(text.split()) if c.isprintable())
    if len(text) <= _LONGEST_MISSING and text.strip("[]").strip().lower() in _MISSING:
        return None
    if text[:4].upper() in ("GPU ", "[GPU") and text.lstrip("[").lower().startswith(
        _MISSING_STARTS
    ):
        return None
    return None if _REPLACEMENT in text else fitting(text, MAX_TEXT)


def identifier(raw: str | None) -> str | None:
    """A serial, a part number or a UUID: as `text_of`, but None if it has a space or is all zeros.

    An identifier has no space, and an error text that a newer nvidia-smi prints in its place does.
    """
    text = text_of(raw)
    return text if text and " " not in text and text.strip("0-") else None


def integer(raw: str | None) -> int | None:
    """A non-negative count or position; None for anything else, and beyond int64."""
    text = raw.strip() if raw else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def yes_no(raw: str | None) -> bool | None:
    """`Yes` is True, `No` is False, anything else None."""
    return {"yes": True, "no": False}.get(raw.strip().lower()) if raw else None


def enabled_disabled(raw: str | None) -> str | None:
    """`Enabled` or `Disabled`, None for anything else."""
    return {"enabled": "Enabled", "disabled": "Disabled"}.get(raw.strip().lower()) if raw else None


def pci_address(raw: str | None) -> str | None:
    """A PCI address as `00000000:29:00.0`, with a domain of 8 digits, in upper case; None if
    invalid.

    nvidia-smi writes 8 digits in the XML and 4 elsewhere, in upper or lower case.
    """
    match = _PCI.fullmatch(raw.strip()) if raw else None
    if match is None:
        return None
    domain, bus, device, function = match.groups()
    return f"{(domain or '0').zfill(8)}:{bus.zfill(2)}:{device.zfill(2)}.{function}".upper()
