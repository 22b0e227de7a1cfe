"""Liveness and readiness of the operator, and the server for /healthz, /readyz and /metrics.

An answered probe proves that the event loop runs. Every other part that must make progress reports
it through `Health.beat`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from aiohttp import web

from gpuid_operator.api.values import format_time
from gpuid_operator.operator.variables import SettingsError
from gpuid_operator.telemetry.log import get_logger

MAX_LAG: Final = 1.0
"""Seconds by which the event loop may be late before the log has a line about it."""

_LAG_PERIOD: Final = 1.0
_GRACE: Final = 1.0
"""Seconds in which a scrape in progress may end when the server stops."""

_log = get_logger(__name__)

Render = Callable[[str], tuple[str, bytes]]
"""Content type and body of /metrics for an Accept header."""


@dataclass(frozen=True, slots=True)
class _Beat:
    at: float
    bound: float


class Health:
    """Which parts are alive, and whether the instance is ready and why.

    `now` is a monotonic clock in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._beats: dict[str, _Beat] = {}
        self._ready = False
        self._reason = "starting"

    def beat(self, part: str, bound: float) -> None:
        """`part` is alive, and beats again within `bound` seconds."""
        self._beats[part] = _Beat(at=self._now(), bound=bound)

    def retire(self, part: str) -> None:
        """`part` has ended on purpose, such as the lease of an instance that stops."""
        self._beats.pop(part, None)

    def set_ready(self, reason: str) -> None:
        """A standby is ready at once, a leader after its first full list."""
        self._ready, self._reason = True, reason

    def set_unready(self, reason: str) -> None:
        self._ready, self._reason = False, reason

    @property
    def ready(self) -> tuple[bool, str]:
        """Whether the instance is ready, and why."""
        return self._ready, self._reason

    def dead(self) -> list[str]:
        """One line for each part that has not beaten for longer than its bound."""
        now = self._now()
        return [
            f"{part}: no heartbeat since {_ago(now - beat.at)} (limit {beat.bound:g}s)"
            for part, beat in sorted(self._beats.items())
            if now - beat.at > beat.bound
        ]


async def log_loop_lag(lag: float = MAX_LAG, period: float = _LAG_PERIOD) -> None:
    """Log when the event loop was blocked for longer than `lag` seconds. Runs until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + period
        await asyncio.sleep(period)
        late = loop.time() - due
        if late > lag:
            _log.warning("event loop blocked", seconds=round(late, 3))


@asynccontextmanager
async def serve(*, health: Health, render: Render, port: int) -> AsyncIterator[int]:
    """Serve on every address of the machine, and yield the port (the chosen one, if `port` is 0).

    Raises SettingsError, naming SERVER_PORT, if the process cannot listen on the port.
    """
    listener = _listen(port)
    runner = web.AppRunner(_app(health, render), access_log=None, shutdown_timeout=_GRACE)
    try:
        await runner.setup()
        await web.SockSite(runner, listener).start()
        yield listener.getsockname()[1]
    finally:
        await runner.cleanup()
        listener.close()


def _app(health: Health, render: Render) -> web.Application:
    async def healthz(_: web.Request) -> web.Response:
        dead = health.dead()
        return _answer("\n".join(dead) or "ok", alive=not dead)

    async def readyz(_: web.Request) -> web.Response:
        ready, reason = health.ready
        return _answer(reason, alive=ready)

    async def metrics(request: web.Request) -> web.Response:
        content_type, body = render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


def _answer(text: str, *, alive: bool) -> web.Response:
    return web.Response(text=f"{text}\n", status=200 if alive else 503)


def _listen(port: int) -> socket.socket:
    """A socket for IPv6 and IPv4, or for IPv4 alone where the machine has no IPv6."""
    try:
        if socket.has_dualstack_ipv6():
            try:
                return socket.create_server(
                    ("::", port), family=socket.AF_INET6, dualstack_ipv6=True
                )
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
        return socket.create_server(("0.0.0.0", port))  # noqa: S104 - probes and scrapes come from outside
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise SettingsError(
            "SERVER_PORT", port, f"a port that this process can listen on ({reason})"
        ) from error


def _ago(seconds: float) -> str:
    return format_time(datetime.now(UTC) - timedelta(seconds=seconds))
