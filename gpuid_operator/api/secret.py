"""A Secret, as the client reads it and the sinks use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretData:
    """What the operator reads of a Secret. Its values stay out of every representation."""

    data: Mapping[str, bytes] = field(repr=False)
    """Decoded."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
