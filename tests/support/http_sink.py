"""An http sink, and a real HTTP server that answers it as the test says."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import Sink
from gpuid_operator.sinks.base import SinkError
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.sinks.registry import open_sink
from tests.support.secret_source import Secrets

TOKEN = "a-token-that-nobody-may-see"
TOKEN_REF: dict[str, Any] = {"tokenSecretRef": {"name": "cmdb", "key": "token"}}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Server:
    """What a server was sent."""

    url: str = ""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        return self.requests[-1][0]

    @property
    def body(self) -> Any:
        return json.loads(self.requests[-1][1])


@asynccontextmanager
async def serving(
    answer: web.StreamResponse | Handler | int = 200, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    server = Server()

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        server.requests.append(({k.lower(): v for k, v in request.headers.items()}, body))
        if isinstance(answer, int):
            return web.Response(status=answer)
        return answer if isinstance(answer, web.StreamResponse) else await answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "localhost" if tls else "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"https://localhost:{port}/" if tls else f"http://{host}:{port}/hook?key=hidden"
    try:
        yield server
    finally:
        await runner.cleanup()


@asynccontextmanager
async def http_sink(url: str, secrets: Secrets | None = None, **fields: Any) -> AsyncIterator[Any]:
    client = HTTPClient()
    spec = Sink.model_validate({"name": "cmdb", "http": {"url": url, "insecure": True, **fields}})
    context = SinkContext(http=client, write_records=lambda _records: None)
    sink = open_sink(spec, secrets=secrets or Secrets(), context=context)
    try:
        yield sink
    finally:
        await sink.close()
        await client.close()


def sent_records(count: int = 2) -> list[Record]:
    return [
        Record(
            id=f"uid.{n}.1",
            event="GPUAdded",
            cluster="prod/eu",
            node="gpu-1",
            machine="i-1",
            source="ns/pod",
            chassis="unknown",
            gpu=str(n),
            time=datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC),
            sequence=n,
        )
        for n in range(1, count + 1)
    ]


async def failure_of(answer: web.StreamResponse | Handler | int, **fields: Any) -> SinkError:
    async with serving(answer) as server, http_sink(server.url, **fields) as sink:
        with pytest.raises(SinkError) as caught:
            await sink.send(sent_records())
    return caught.value
