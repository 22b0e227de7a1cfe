"""What a sink gets from the process when it is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.secrets import SecretSource

RecordWriter = Callable[[Iterable[Mapping[str, object]]], None]
"""Writes records as log lines, all or none; provided by the owner of the log. May raise OSError."""


@dataclass(frozen=True, kw_only=True)
class SinkContext:
    """What all sinks of a process share. Its creator closes `http`."""

    http: HTTPClient
    write_records: RecordWriter


@dataclass(frozen=True, kw_only=True)
class SinkOpening:
    """The arguments of `open_sink` beside the spec."""

    secrets: SecretSource
    context: SinkContext
    builtin: bool
    """Whether the sink is that of the built-in policy, which only an administrator can write."""
