"""The operator with another period of its re-sync, and a log line each time its loop is held.

Argument: the period in seconds.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import timedelta
from typing import Final

from gpuid_operator.engine.core.options import Timings
from gpuid_operator.operator import process
from gpuid_operator.operator.app import main
from gpuid_operator.telemetry.log import get_logger

_PERIOD: Final = 0.01
_SHORTEST: Final = 0.02
"""Seconds of a hold that is worth a line."""
_log = get_logger(__name__)


async def log_holds() -> None:
    """Log how late the loop is, by the clock and by the CPU time of its thread."""
    loop = asyncio.get_running_loop()
    while True:
        due, worked = loop.time() + _PERIOD, time.thread_time()
        await asyncio.sleep(_PERIOD)
        late = loop.time() - due
        if late > _SHORTEST:
            worked = time.thread_time() - worked
            _log.info(
                "loop held",
                hold_ms=round(1000 * late, 1),
                hold_cpu_ms=round(1000 * min(worked, late), 1),
            )


if __name__ == "__main__":
    # Takes the place of the task that logs holds of more than a second.
    setattr(process, "log_loop_lag", log_holds)  # noqa: B010 - mypy knows that it is no variable
    sys.exit(main(timings=Timings(resync=timedelta(seconds=float(sys.argv[1])))))
