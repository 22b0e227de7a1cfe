"""Opens sinks: the module `gpuid_operator.sinks.<type>` implements a type of sinks.

It has a function `open_sink(spec, opening)`, where `spec` is the model of the type. The libraries
of some types cost memory and threads, so the module is imported with the first sink of its type.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from gpuid_operator.api import sinks as api
from gpuid_operator.api.record import Record
from gpuid_operator.sinks.base import Refused, Sink
from gpuid_operator.sinks.opening import SinkContext, SinkOpening
from gpuid_operator.sinks.secrets import SecretSource


def open_sink(
    spec: api.Sink, *, secrets: SecretSource, context: SinkContext, builtin: bool = False
) -> Sink:
    """Create the sink of a spec. It does no I/O before the first `send`.

    `builtin`: the sink is that of the built-in policy, whose settings only an administrator of the
    operator can write. `secrets` is EnvironmentSecrets for that sink, KubernetesSecrets for others.
    An invalid spec results in a sink that rejects all records, so that other sinks work.
    """
    opening = SinkOpening(secrets=secrets, context=context, builtin=builtin)
    try:
        module = import_module(f"gpuid_operator.sinks.{spec.type}")
        sink: Sink = module.open_sink(spec.settings, opening)
    except ValueError as error:
        return _Unusable(str(error))
    return sink


class _Unusable:
    """A sink with an invalid address that the schema does not detect, such as `https://[host/`."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def send(self, records: Sequence[Record]) -> None:
        raise Refused(f"invalid settings: {self._why}")

    async def close(self) -> None:
        """Do nothing."""
