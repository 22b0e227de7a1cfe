"""The API client against a server that answers what an API server rarely does.

A fake, since a healthy API server cannot be made to throttle, to break off, or to talk nonsense;
what a real one answers is tested in tests/cluster.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gpuid_operator.kube import errors
from gpuid_operator.kube.client import MAX_CONNECTIONS, KubeClient, at_once
from gpuid_operator.kube.credentials import Credentials, FreshCredentials
from gpuid_operator.kube.in_flight import InFlight
from gpuid_operator.kube.paging import list_pages

if TYPE_CHECKING:
    from tests.conftest import Certificates

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Rotating:
    """Credentials whose token is another after each renewal."""

    def __init__(self, server: str, *tokens: str, ca_path: str | None = None) -> None:
        self._server = server
        self._tokens = list(tokens)
        self._ca_path = ca_path

    async def load(self, *, rejected: bool) -> Credentials:
        token = self._tokens.pop(0) if len(self._tokens) > 1 else self._tokens[0]
        return Credentials(
            server=self._server, authorization=f"Bearer {token}", ca_path=self._ca_path
        )


class Answers:
    """Gives one answer after the other, the last one for ever, and keeps what was asked."""

    def __init__(self, *answers: Handler) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, str, bytes]] = []
        self.headers: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path_qs, await request.read()))
        self.headers.append(dict(request.headers))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return await answer(request)


def status(code: int, *, headers: dict[str, str] | None = None, **body: Any) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=code, headers=headers)

    return handler


def text(code: int, said: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text=said)

    return handler


async def broken(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def hanging(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


@asynccontextmanager
async def serving(answers: Answers, *tokens: str) -> AsyncIterator[KubeClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answers.handle)
    async with TestServer(app) as server:
        source = Rotating(str(server.make_url("")).rstrip("/"), *(tokens or ("sesame",)))
        async with KubeClient(FreshCredentials(source), qps=1e6, burst=1000) as client:
            yield client


async def test_a_request_and_its_answer_are_json() -> None:
    answers = Answers(status(200, metadata={"name": "é"}))
    async with serving(answers) as client:
        body = await client.request(
            "PATCH",
            "/apis/x/y",
            params={"fieldManager": "a b", "force": "true"},
            body={"a": [1, None]},
            content_type="application/merge-patch+json",
            accept="application/json;as=X",
        )
    assert body == {"metadata": {"name": "é"}}
    assert answers.asked == [("PATCH", "/apis/x/y?fieldManager=a+b&force=true", b'{"a":[1,null]}')]
    (headers,) = answers.headers
    assert headers["Authorization"] == "Bearer sesame"
    assert headers["Content-Type"] == "application/merge-patch+json"
    assert headers["Accept"] == "application/json;as=X"
    assert headers["User-Agent"].startswith("gpuid-operator/")


@pytest.mark.parametrize(
    ("date", "time"),
    [
        ("Sun, 07 Jun 2026 10:30:45 GMT", datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)),
        ("yesterday", None),
    ],
)
async def test_the_servers_clock_is_that_of_its_newest_response(
    date: str, time: datetime | None
) -> None:
    async with serving(Answers(status(200, headers={"Date": date}))) as client:
        assert client.server_time is None
        await client.request("GET", "/api")
        now = client.server_time
        # It goes on from there; see test_server_clock.py.
        assert now == time or (now is not None and time is not None and now > time)


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", errors.ApiError),
        (401, "Unauthorized", errors.Unauthorized),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (409, "Conflict", errors.Conflict),
        (409, "AlreadyExists", errors.AlreadyExists),
        (410, "Expired", errors.Gone),
        (422, "Invalid", errors.Invalid),
        (500, "InternalError", errors.ServerError),
        (504, "Timeout", errors.ServerError),
    ],
)
async def test_a_refused_write_is_not_repeated_and_is_told_by_kind(
    code: int, reason: str, kind: type[errors.ApiError]
) -> None:
    answers = Answers(status(code, reason=reason, message="because of the weather"))
    async with serving(answers) as client:
        with pytest.raises(errors.ApiError) as caught:
            await client.request("POST", "/apis/x", body={})
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.reason) == (code, reason)
    assert caught.value.server_message == "because of the weather"
    assert f"POST /apis/x: the API server answered {code}" in caught.value.message
    assert "because of the weather" in caught.value.message
    assert "sesame" not in caught.value.message
    assert len(answers.asked) == 1


async def test_a_field_that_the_crd_lacks_is_no_fault_of_the_server() -> None:
    said = "failed to create typed patch object: .status.later: field not declared in schema"
    async with serving(Answers(status(500, reason="", message=said))) as client:
        with pytest.raises(errors.FieldUnknown, match="install the CRDs of this version") as caught:
            await client.request("PATCH", "/apis/x", body={})
    assert ".status.later" in caught.value.message


async def test_an_error_without_a_status_object_keeps_the_servers_words() -> None:
    async with serving(Answers(text(404, "404 page not found\n"))) as client:
        with pytest.raises(errors.NotFound, match="404 page not found"):
            await client.request("GET", "/apis/x")


async def test_what_is_not_json_is_no_answer() -> None:
    async with serving(Answers(text(200, "<html>login</html>"))) as client:
        with pytest.raises(errors.ApiUnreachable, match="is not JSON"):
            await client.request("GET", "/apis/x")


async def test_throttling_is_waited_out_for_writes_too() -> None:
    slow = status(429, headers={"Retry-After": "0"}, reason="TooManyRequests")
    answers = Answers(slow, slow, status(201, done=True))
    async with serving(answers) as client:
        assert await client.request("POST", "/apis/x", body={}) == {"done": True}
    assert len(answers.asked) == 3


async def test_throttling_is_not_waited_out_for_ever() -> None:
    answers = Answers(status(429, headers={"Retry-After": "0"}))
    async with serving(answers) as client:
        with pytest.raises(errors.TooManyRequests, match="lower QPS"):
            await client.request("GET", "/apis/x")
    assert len(answers.asked) == 4


async def test_no_wait_goes_beyond_the_time_out() -> None:
    answers = Answers(status(429, headers={"Retry-After": "5"}))
    async with serving(answers) as client:
        with pytest.raises(errors.TooManyRequests) as caught:
            await client.request("GET", "/apis/x", timeout=2)
    assert len(answers.asked) == 1
    assert caught.value.retry_after == 5


@pytest.mark.parametrize("first", [broken, status(503), status(500)])
async def test_a_read_is_tried_again(first: Handler) -> None:
    # Twice broken: one of them may be repeated by aiohttp itself, which this does not rely on.
    answers = Answers(first, first, status(200, ok=True))
    async with serving(answers) as client:
        assert await client.request("GET", "/apis/x") == {"ok": True}


async def test_a_write_whose_answer_is_lost_is_not_repeated() -> None:
    answers = Answers(broken)
    async with serving(answers) as client:
        with pytest.raises(errors.ApiUnreachable, match="interrupted"):
            await client.request("PATCH", "/apis/x", body={})
    assert len(answers.asked) == 1


async def test_a_hung_server_times_out() -> None:
    async with serving(Answers(hanging)) as client:
        with pytest.raises(errors.ApiUnreachable, match=r"no response from .* within 0\.2 s"):
            await client.request("GET", "/apis/x", timeout=0.2)


async def test_a_refused_token_is_read_again_once() -> None:
    answers = Answers(status(401, reason="Unauthorized"), status(200, ok=True))
    async with serving(answers, "old", "new") as client:
        assert await client.request("POST", "/apis/x", body={}) == {"ok": True}
    assert [headers["Authorization"] for headers in answers.headers] == ["Bearer old", "Bearer new"]


async def test_a_token_that_stays_refused_is_an_error_at_once() -> None:
    answers = Answers(status(401, reason="Unauthorized"))
    async with serving(answers) as client:
        with pytest.raises(errors.Unauthorized, match="renew the credentials"):
            await client.request("GET", "/apis/x")
    assert len(answers.asked) == 1


async def test_pages_follow_the_continue_token() -> None:
    answers = Answers(
        status(200, items=[1, 2], metadata={"continue": "a+b="}),
        status(200, items=[3], metadata={"continue": ""}),
    )
    async with serving(answers) as client:
        pages = [
            page["items"] async for page in list_pages(client, "/l", params={"x": "y"}, limit=2)
        ]
    assert pages == [[1, 2], [3]]
    assert [path for _, path, _ in answers.asked] == [
        "/l?x=y&limit=2",
        "/l?x=y&limit=2&continue=a%2Bb%3D",
    ]


async def test_the_next_page_is_on_its_way_while_the_caller_works_on_one() -> None:
    asked = asyncio.Event()

    async def second(request: web.Request) -> web.StreamResponse:
        asked.set()
        return web.json_response({"items": [2]})

    answers = Answers(status(200, items=[1], metadata={"continue": "more"}), second)
    async with serving(answers) as client, asyncio.timeout(30):
        pages = list_pages(client, "/l")
        assert (await anext(pages))["items"] == [1]
        await asked.wait()
        assert [page["items"] async for page in pages] == [[2]]


async def test_who_stops_listing_leaves_no_request_behind() -> None:
    def requests() -> list[str]:
        coroutines = [repr(task.get_coro()) for task in asyncio.all_tasks()]
        return [one for one in coroutines if "_page" in one]

    answers = Answers(status(200, items=[1], metadata={"continue": "more"}), hanging)
    async with serving(answers) as client:
        async with aclosing(list_pages(client, "/l")) as pages:
            await anext(pages)
            assert len(requests()) == 1
        assert not requests()


async def test_a_list_that_outlives_its_snapshot_says_so() -> None:
    answers = Answers(
        status(200, items=[1], metadata={"continue": "c"}),
        status(410, reason="Expired", message="The provided continue parameter is too old"),
    )
    async with serving(answers) as client:
        seen = []
        with pytest.raises(errors.ListExpired, match="too old"):
            async for page in list_pages(client, "/l"):
                seen.append(page["items"])
    assert seen == [[1]]


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ("http://127.0.0.1:1", "check that the API server is running"),
        ("http://no-such-host.invalid:6443", "host name not found"),
    ],
)
async def test_no_server_is_told_with_what_to_do(server: str, says: str) -> None:
    async with KubeClient(FreshCredentials(Rotating(server, "sesame")), qps=1, burst=9) as client:
        with pytest.raises(errors.ApiUnreachable, match=says) as caught:
            await client.request("PATCH", "/apis/x", body={}, timeout=1)
    assert server in caught.value.message


@pytest.fixture
async def tls_server(certificates: Certificates) -> AsyncIterator[str]:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificates.certificate, certificates.key)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", Answers(status(200, ok=True)).handle)
    server = TestServer(app)
    await server.start_server(ssl=tls)
    yield f"https://localhost:{server.port}"
    await server.close()


async def test_the_right_ca_verifies_the_server(
    tls_server: str, certificates: Certificates, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text(certificates.authority)
    source = Rotating(tls_server, "sesame", ca_path=str(ca))
    async with KubeClient(FreshCredentials(source), qps=1, burst=1) as client:
        assert await client.request("GET", "/apis/x") == {"ok": True}


@pytest.mark.parametrize(
    ("change", "says"),
    [(("", ""), "the CA in the kubeconfig"), (("https", "http"), "interrupted")],
)
async def test_tls_that_does_not_come_about_is_told(
    tls_server: str, change: tuple[str, str], says: str
) -> None:
    source = Rotating(tls_server.replace(*change), "sesame")
    async with KubeClient(FreshCredentials(source), qps=1, burst=1) as client:
        with pytest.raises(errors.ApiUnreachable, match=says) as caught:
            await client.request("GET", "/apis/x", timeout=1)
    assert "object at" not in caught.value.message


async def test_requests_wait_for_the_rate_limit_and_unlimited_ones_do_not() -> None:
    answers = Answers(status(200))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answers.handle)
    async with TestServer(app) as server:
        source = Rotating(str(server.make_url("")).rstrip("/"), "sesame")
        async with KubeClient(FreshCredentials(source), qps=0.001, burst=1) as client:
            await client.request("GET", "/first")
            waiting = asyncio.create_task(client.request("GET", "/second"))
            for _ in range(3):
                await client.request("GET", "/lease", limited=False)
            assert not waiting.done()
            waiting.cancel()
    assert [path for _, path, _ in answers.asked] == ["/first", "/lease", "/lease", "/lease"]


@pytest.mark.parametrize(
    ("qps", "places"), [(0.1, 3), (50, 3), (200, 3), (500, 8), (1000, 15), (1e6, MAX_CONNECTIONS)]
)
def test_a_higher_rate_sends_more_at_once(qps: float, places: int) -> None:
    assert at_once(qps) == places


async def test_few_requests_are_sent_at_once_and_an_unlimited_one_does_not_wait_for_them() -> None:
    held, busy = asyncio.Event(), asyncio.Event()
    arrived = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal arrived
        if request.path != "/lease":
            arrived += 1
            if arrived == 3:
                busy.set()
            await held.wait()
        return web.json_response({})

    async with serving(Answers(answer)) as client:
        client.in_flight = InFlight(places=3, longest=3600)
        others = [asyncio.create_task(client.request("GET", "/slow")) for _ in range(9)]
        await busy.wait()
        for method in ("GET", "PUT"):
            await client.request(method, "/lease", limited=False, timeout=5)
        assert arrived == 3
        assert not any(other.done() for other in others)
        held.set()
        await asyncio.gather(*others)


async def test_a_proxy_that_refuses_is_told_without_its_password() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    class Source:
        async def load(self, *, rejected: bool) -> Credentials:
            return Credentials(
                server="https://localhost:6443", proxy=f"http://me:hunter2@127.0.0.1:{port}"
            )

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        fresh = FreshCredentials(Source())
        async with KubeClient(fresh, qps=1, burst=1) as client:
            with pytest.raises(errors.ApiUnreachable, match="407") as caught:
                await client.request("PATCH", "/apis/x", body={})
    assert "hunter2" not in caught.value.message
    assert "hunter2" not in repr(await fresh.get())
