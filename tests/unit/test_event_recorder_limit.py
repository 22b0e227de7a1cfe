"""Events leave room for other requests of the same client.

The server is a fake: a real one does not let go of requests one by one.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.test_utils import TestServer

from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.credentials import Credentials, FreshCredentials
from gpuid_operator.kube.events import EventType


class Fixed:
    def __init__(self, server: str) -> None:
        self._server = server

    async def load(self, *, rejected: bool) -> Credentials:
        return Credentials(server=self._server)


class Slow:
    """Holds all Events until `let_go` is set, and counts those that it holds at a time."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.most = 0
        self._under_way = 0
        self.four = asyncio.Event()
        self.let_go = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.names.append(body["involvedObject"]["name"])
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        if self._under_way == 4:
            self.four.set()
        await self.let_go.wait()
        self._under_way -= 1
        return web.json_response({})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({})


async def test_many_events_are_all_posted_and_do_not_delay_writes() -> None:
    slow = Slow()
    app = web.Application()
    app.router.add_post("/api/v1/namespaces/default/events", slow.handle)
    app.router.add_get("/write", slow.answer)
    async with TestServer(app) as server:
        credentials = FreshCredentials(Fixed(str(server.make_url("")).rstrip("/")))
        async with KubeClient(credentials, qps=1e6, burst=1000) as client:
            posts = EventRecorder(client)
            for number in range(200):
                posts.post(
                    f"gpu-{number}",
                    "a-uid",
                    reason="RestartsHalted",
                    message="too many nodes fail the check",
                    type=EventType.WARNING,
                )
            await slow.four.wait()
            await client.request("GET", "/write")  # not delayed by the Events before it
            slow.let_go.set()
            assert await posts.finish(within=30)
            assert sorted(slow.names) == sorted(f"gpu-{number}" for number in range(200))
            assert slow.most <= 4
            # The recorder can be used again.
            posts.post("gpu-x", "a-uid", reason="GPULost", message="!", type=EventType.WARNING)
            assert await posts.finish(within=30)
            assert slow.names[-1] == "gpu-x"
