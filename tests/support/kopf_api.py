"""As much of an API server as Kopf needs: discovery, lists and watches of pods, policies
and quarantines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from gpuid_operator.api.meta import (
    API_VERSION,
    GROUP,
    POLICY_KIND,
    POLICY_PLURAL,
    QUARANTINE_KIND,
    QUARANTINE_PLURAL,
    VERSION,
)
from gpuid_operator.kube.credentials import Credentials


class KopfApi:
    """Objects by plural, as listed; `send` is an event for those who watch."""

    def __init__(self) -> None:
        self.lists: dict[str, list[dict[str, Any]]] = {
            "pods": [],
            POLICY_PLURAL: [],
            QUARANTINE_PLURAL: [],
        }
        self.requests: list[web.Request] = []
        self.broken = False
        """Whether each list and watch is answered with 500."""
        self._queues: dict[str, list[asyncio.Queue[bytes | None]]] = {}
        self.url = ""

    @property
    def credentials(self) -> Credentials:
        return Credentials(server=self.url)

    def send(self, plural: str, kind: str, body: dict[str, Any]) -> None:
        """Send an event (ADDED, MODIFIED, DELETED) to every watch of `plural`."""
        for queue in self._queues.get(plural, []):
            queue.put_nowait(orjson.dumps({"type": kind, "object": body}) + b"\n")

    def end_watches(self) -> None:
        for queue in (queue for queues in self._queues.values() for queue in queues):
            queue.put_nowait(None)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[KopfApi]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            self.end_watches()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        plural = request.path.rpartition("/")[2]
        if plural in self.lists:
            if self.broken:
                return web.json_response({"kind": "Status", "code": 500}, status=500)
            if "watch" in request.query:
                return await self._watch(request, plural)
            return web.json_response(
                {"metadata": {"resourceVersion": "1"}, "items": self.lists[plural]}
            )
        found = _DISCOVERY.get(request.path)
        return web.json_response(found or {"code": 404}, status=200 if found else 404)

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._queues.setdefault(plural, []).append(queue)
        response = web.StreamResponse()
        await response.prepare(request)
        while (event := await queue.get()) is not None:
            await response.write(event)
        return response


def _resource(plural: str, kind: str, *, namespaced: bool) -> dict[str, Any]:
    return {
        "name": plural,
        "kind": kind,
        "namespaced": namespaced,
        "singularName": kind.lower(),
        "verbs": ["get", "list", "watch", "patch"],
    }


_DISCOVERY = {
    "/api": {"versions": ["v1"]},
    "/api/v1": {
        "resources": [
            _resource("pods", "Pod", namespaced=True),
            # Kopf waits for it even where it has no namespace to look for.
            _resource("namespaces", "Namespace", namespaced=False),
        ]
    },
    "/apis": {
        "groups": [
            {
                "name": GROUP,
                "versions": [{"groupVersion": API_VERSION, "version": VERSION}],
                "preferredVersion": {"groupVersion": API_VERSION, "version": VERSION},
            }
        ]
    },
    f"/apis/{API_VERSION}": {
        "resources": [
            _resource(POLICY_PLURAL, POLICY_KIND, namespaced=False),
            _resource(QUARANTINE_PLURAL, QUARANTINE_KIND, namespaced=False),
        ]
    },
}
