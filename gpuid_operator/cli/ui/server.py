"""The HTTP server of the page: for this user on this machine, and read-only."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any, Final

import orjson
from aiohttp import web

from gpuid_operator.cli.plugin_clusters import Cluster
from gpuid_operator.cli.ui.details import gpu_details, node_details
from gpuid_operator.cli.ui.state import FleetState

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
_STATIC: Final = {
    entry.name: entry.read_bytes()
    for entry in files("gpuid_operator.cli.ui").joinpath("static").iterdir()
    if entry.name.rpartition(".")[2] in _TYPES
}
_COALESCE: Final = 0.25
"""Seconds between two deltas to a browser: at most four per second."""
_KEEPALIVE: Final = 15.0
_MAX_QUERY: Final = 200


class Server:
    """Serves one page with its data under `/TOKEN/`."""

    def __init__(self, clusters: Sequence[Cluster], state: FleetState, *, token: str) -> None:
        self._clusters = {cluster.name: cluster for cluster in clusters}
        self._state = state
        self._token = token
        self.port = 0
        """The port that Host headers must name; set once it is known."""

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.on_response_prepare.append(_add_headers)
        app.add_routes(
            [
                web.get("/{token}/events", self._events),
                web.get("/{token}/api/search", self._search),
                web.get("/{token}/api/gpu", self._gpu),
                web.get("/{token}/api/node", self._node),
                web.get("/{token}/{file:[a-z]*([.][a-z]+)?}", self._file),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what another page in the browser, or another user of the machine, could send."""
        if request.headers.get("Host") not in (f"127.0.0.1:{self.port}", f"localhost:{self.port}"):
            raise web.HTTPForbidden(text="This address serves 127.0.0.1 and localhost only.\n")
        token = request.path.split("/")[1]
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            raise web.HTTPForbidden(
                text="The token in the address is missing or wrong. Open the address that"
                " `kubectl gpuid ui` printed.\n"
            )
        return await handler(request)

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["file"] or "index.html"
        if name not in _STATIC:
            raise web.HTTPNotFound(text=f"There is no file {name}.\n")
        kind = _TYPES[name.rpartition(".")[2]]
        return web.Response(body=_STATIC[name], content_type=kind, charset="utf-8")

    async def _search(self, request: web.Request) -> web.Response:
        return _json(self._state.index.search(request.query.get("q", "")[:_MAX_QUERY]))

    async def _gpu(self, request: web.Request) -> web.Response:
        identifier = request.query.get("id", "")[:_MAX_QUERY]
        return _json(await gpu_details(list(self._clusters.values()), identifier))

    async def _node(self, request: web.Request) -> web.Response:
        cluster = self._clusters.get(request.query.get("cluster", ""))
        if cluster is None:
            raise web.HTTPNotFound(text="There is no such context on this page.\n")
        return _json(await node_details(cluster, request.query.get("node", "")))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: a snapshot, then deltas."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with self._state.subscription() as changes:
            await response.write(_event("snapshot", self._state.snapshot()))
            while True:
                try:
                    async with asyncio.timeout(_KEEPALIVE):
                        await changes.wait()
                except TimeoutError:
                    await response.write(b": alive\n\n")
                    continue
                await response.write(_event("delta", self._state.delta(changes.take())))
                await asyncio.sleep(_COALESCE)


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _json(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


def _event(kind: str, value: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(value))
