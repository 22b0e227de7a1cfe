"""The registry of sinks: the implementation of each type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gpuid_operator.api import sinks as api
from gpuid_operator.api.record import Record
from gpuid_operator.sinks.base import Refused, Sink
from gpuid_operator.sinks.http import HTTPSender
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.secrets import SecretSource
from gpuid_operator.sinks.stdout import RecordWriter, StdoutSender


@dataclass(frozen=True, kw_only=True)
class SinkContext:
    """What all sinks of a process share. Its creator closes `http`."""

    http: HTTPClient
    write_records: RecordWriter


def open_sink(spec: api.Sink, *, secrets: SecretSource, context: SinkContext) -> Sink:
    """Create the sink of a spec. It does no I/O before the first `send`.

    `secrets` is EnvironmentSecrets for the sink of the built-in policy, KubernetesSecrets for
    others. An invalid spec results in a sink that rejects all records, so that other sinks work.
    """
    try:
        return _OPENERS[spec.type](spec, secrets, context)
    except ValueError as error:
        return _Unusable(str(error))


class _Unusable:
    """A sink with an invalid address that the schema does not detect, such as `https://[host/`."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def send(self, records: Sequence[Record]) -> None:
        raise Refused(f"invalid settings: {self._why}")

    async def close(self) -> None:
        """Do nothing."""


def _stdout(_spec: api.Sink, _secrets: SecretSource, context: SinkContext) -> Sink:
    return StdoutSender(context.write_records)


def _http(spec: api.Sink, secrets: SecretSource, context: SinkContext) -> Sink:
    assert spec.http is not None  # noqa: S101 - implied by its type
    return HTTPSender(spec.http, secrets=secrets, client=context.http)


# The libraries of these two cost memory and threads, so they are imported on demand.


def _postgres(spec: api.Sink, secrets: SecretSource, _context: SinkContext) -> Sink:
    from gpuid_operator.sinks.postgres import PostgresSender

    assert spec.postgres is not None  # noqa: S101
    return PostgresSender(spec.postgres, secrets=secrets)


def _s3(spec: api.Sink, secrets: SecretSource, _context: SinkContext) -> Sink:
    from gpuid_operator.sinks.s3 import S3Sender

    assert spec.s3 is not None  # noqa: S101
    return S3Sender(spec.s3, secrets=secrets)


_OPENERS: Final[dict[api.SinkType, Callable[[api.Sink, SecretSource, SinkContext], Sink]]] = {
    api.SinkType.STDOUT: _stdout,
    api.SinkType.HTTP: _http,
    api.SinkType.POSTGRES: _postgres,
    api.SinkType.S3: _s3,
}
