"""The registry of sinks: the implementation of each type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

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


def open_sink(
    spec: api.Sink, *, secrets: SecretSource, context: SinkContext, builtin: bool = False
) -> Sink:
    """Create the sink of a spec. It does no I/O before the first `send`.

    `builtin`: the sink is that of the built-in policy, whose settings only an administrator of the
    operator can write. `secrets` is EnvironmentSecrets for that sink, KubernetesSecrets for others.
    An invalid spec results in a sink that rejects all records, so that other sinks work.
    """
    try:
        return _OPENERS[spec.type](_Opening(spec, secrets, context, builtin))
    except ValueError as error:
        return _Unusable(str(error))


class _Opening(NamedTuple):
    """The arguments of `open_sink`."""

    spec: api.Sink
    secrets: SecretSource
    context: SinkContext
    builtin: bool


class _Unusable:
    """A sink with an invalid address that the schema does not detect, such as `https://[host/`."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def send(self, records: Sequence[Record]) -> None:
        raise Refused(f"invalid settings: {self._why}")

    async def close(self) -> None:
        """Do nothing."""


def _stdout(opening: _Opening) -> Sink:
    return StdoutSender(opening.context.write_records)


def _http(opening: _Opening) -> Sink:
    spec = opening.spec.http
    assert spec is not None  # noqa: S101 - implied by its type
    return HTTPSender(spec, secrets=opening.secrets, client=opening.context.http)


# The libraries of these two cost memory and threads, so they are imported on demand.


def _postgres(opening: _Opening) -> Sink:
    from gpuid_operator.sinks.postgres import PostgresSender

    spec = opening.spec.postgres
    assert spec is not None  # noqa: S101
    return PostgresSender(spec, secrets=opening.secrets)


def _s3(opening: _Opening) -> Sink:
    from gpuid_operator.sinks.s3 import S3Sender

    spec = opening.spec.s3
    assert spec is not None  # noqa: S101
    return S3Sender(
        spec,
        secrets=opening.secrets,
        client=opening.context.http,
        builtin=opening.builtin,
    )


_OPENERS: Final[dict[api.SinkType, Callable[[_Opening], Sink]]] = {
    api.SinkType.STDOUT: _stdout,
    api.SinkType.HTTP: _http,
    api.SinkType.POSTGRES: _postgres,
    api.SinkType.S3: _s3,
}
