"""The settings of the sink `stdout`."""

from __future__ import annotations

from gpuid_operator.api.sinks.settings import SinkSettings


class StdoutSink(SinkSettings):
    """Writes one JSON line per record to the log of the operator. Has no settings: `stdout: {}`."""
