"""The entry point of the operator: settings, log, then the process until SIGTERM."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Final

from gpuid_operator.engine.core.options import DEFAULT_TIMINGS, Timings
from gpuid_operator.kube.tls import limit_read_buffers
from gpuid_operator.operator import collector
from gpuid_operator.operator.kopf_private import configure_loggers
from gpuid_operator.operator.process import Process
from gpuid_operator.operator.settings import Settings, own_namespace
from gpuid_operator.operator.variables import SettingsError
from gpuid_operator.operator.wiring import Wiring
from gpuid_operator.telemetry import log as telemetry
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

BAD_SETTINGS: Final = 2
"""Exit code for an environment that is not valid."""


def main(environ: Mapping[str, str] = os.environ, *, timings: Timings = DEFAULT_TIMINGS) -> int:
    """Run the operator until SIGTERM or SIGINT. Returns the exit code of the process.

    A leader that loses its lease ends the process itself, with process.LEASE_LOST.
    """
    telemetry.configure("info", "json")
    collector.configure()
    limit_read_buffers()
    try:
        settings = Settings.load(environ)
        telemetry.configure(settings.log_level, settings.log_format)
        configure_loggers(debug=settings.log_level == "debug")
        for secret in settings.secrets:
            telemetry.register_secret(secret)
        wiring = Wiring(
            settings=settings,
            namespace=own_namespace(environ),
            metrics=Metrics(),
            timings=timings,
        )
        asyncio.run(Process(wiring).run())
    except SettingsError as error:
        _log.error(str(error))
        return BAD_SETTINGS
    return 0
