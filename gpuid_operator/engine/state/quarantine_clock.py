"""The clock by which quarantines end; see plan/quarantine_time.py."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from gpuid_operator.api.values import format_time
from gpuid_operator.plan.quarantine_time import quarantine_time
from gpuid_operator.plan.schedule import is_wrong
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class QuarantineClock:
    """Follows the clock of this process while the API server agrees with it."""

    def __init__(
        self, clock: Callable[[], datetime], server_time: Callable[[], datetime | None]
    ) -> None:
        """`server_time` is the API server's clock; None where that is not known."""
        self._clock = clock
        self._server_time = server_time
        self._last: datetime | None = None
        self._wrong = False

    def __call__(self) -> datetime:
        """The time by which quarantines end."""
        now, server = self._clock(), self._server_time()
        was_wrong, self._wrong = self._wrong, is_wrong(now, server=server)
        if self._wrong and not was_wrong and server is not None:
            _log.warning(
                "clock differs from the API server's; quarantines end by the API server's",
                clock=format_time(now),
                api_server=format_time(server),
            )
        self._last = quarantine_time(now, server=server, last=self._last)
        return self._last
