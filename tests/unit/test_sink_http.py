"""The http sink against a real HTTP server that fails on purpose."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gpuid_operator.sinks.addresses import is_forbidden, resolve
from gpuid_operator.sinks.base import (
    AddressNotAllowed,
    RecordsRefused,
    Refused,
    SecretMissing,
    SinkError,
    Unavailable,
)
from tests.support.http_sink import (
    TOKEN,
    TOKEN_REF,
    Handler,
    failure_of,
    http_sink,
    sent_records,
    serving,
)
from tests.support.secret_source import Secrets


async def test_json_is_an_array_of_records() -> None:
    secrets = Secrets(token=TOKEN)
    async with (
        serving() as server,
        http_sink(server.url, secrets, headers={"X-Team": "fleet"}, **TOKEN_REF) as sink,
    ):
        await sink.send(sent_records())
        await sink.send(sent_records())
        first, second = (headers["idempotency-key"] for headers, _ in server.requests)
        await sink.send(sent_records(3))
    assert first == second != server.headers["idempotency-key"]
    assert server.body == [record.to_json() for record in sent_records(3)]
    assert server.headers["content-type"] == "application/json"
    assert server.headers["authorization"] == f"Bearer {TOKEN}"
    assert server.headers["x-team"] == "fleet"
    assert server.headers["user-agent"] == "gpuid-operator"
    counts = [headers["x-records-count"] for headers, _ in server.requests]
    assert counts == ["2", "2", "3"]
    assert "webhook-signature" not in server.headers
    assert secrets.hosts == {"127.0.0.1"}


async def test_cloudevents_are_a_batch() -> None:
    async with serving(202) as server, http_sink(server.url, format="cloudevents") as sink:
        await sink.send(sent_records())
    assert server.headers["content-type"] == "application/cloudevents-batch+json"
    assert server.body[0] == {
        "specversion": "1.0",
        "id": "uid.1.1",
        "source": "/gpuid-operator/prod%2Feu",
        "type": "com.github.gpuid.GPUAdded",
        "subject": "gpu-1",
        "time": "2026-06-07T10:30:45Z",
        "datacontenttype": "application/json",
        "data": sent_records()[0].to_json(),
    }
    assert len(server.body) == 2


@pytest.mark.parametrize("key", ["plain text key", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
async def test_the_signature_is_that_of_standard_webhooks(key: str) -> None:
    secrets = Secrets(signing=key)
    reference = {"signingSecretRef": {"name": "cmdb", "key": "signing"}}
    async with serving() as server, http_sink(server.url, secrets, **reference) as sink:
        await sink.send(sent_records())
    verifier = Webhook(key if key.startswith("whsec_") else key.encode())
    headers, body = server.requests[0]
    assert verifier.verify(body, headers) == [record.to_json() for record in sent_records()]
    assert headers["webhook-id"] == headers["idempotency-key"]
    with pytest.raises(WebhookVerificationError):
        verifier.verify(body + b" ", headers)


async def test_an_unusable_signing_key_is_refused_before_anything_is_sent() -> None:
    reference = {"signingSecretRef": {"name": "cmdb", "key": "signing"}}
    async with serving() as server:
        for key in ("whsec_", "whsec_a"):
            async with http_sink(server.url, Secrets(signing=key), **reference) as sink:
                with pytest.raises(Refused, match="signingSecretRef"):
                    await sink.send(sent_records())
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, RecordsRefused) for status in (400, 413, 422)),
        *((status, Refused) for status in (401, 403, 404, 405, 410, 415)),
        *((status, Unavailable) for status in (408, 409, 425, 429, 500, 502, 503, 504)),
    ],
)
async def test_what_a_status_means(status: int, error: type[SinkError]) -> None:
    failure = await failure_of(web.Response(status=status, text="no\nsuch thing"))
    assert type(failure) is error
    assert f": {status} " in failure.message
    assert failure.message.endswith("no such thing")


async def test_a_redirect_is_not_followed() -> None:
    async with serving() as other:
        failure = await failure_of(web.Response(status=307, headers={"Location": other.url}))
    assert other.requests == []
    assert type(failure) is Refused
    assert "redirects are not followed" in failure.message


async def test_a_refused_token_is_read_again() -> None:
    secrets = Secrets(token=TOKEN)

    async def handle(request: web.Request) -> web.Response:
        good = request.headers["Authorization"] == "Bearer rotated"
        return web.Response(status=200 if good else 401, text=request.headers["Authorization"])

    async with serving(handle) as server, http_sink(server.url, secrets, **TOKEN_REF) as sink:
        with pytest.raises(Refused) as caught:
            await sink.send(sent_records())
        assert TOKEN not in caught.value.message
        assert "Bearer [secret]" in caught.value.message
        assert secrets.invalidated == 1
        secrets.values["token"] = "rotated"
        await sink.send(sent_records())


async def test_a_missing_secret_stops_this_sink_with_its_name() -> None:
    async with serving() as server, http_sink(server.url, **TOKEN_REF) as sink:
        with pytest.raises(SecretMissing, match="Secret cmdb has no key token"):
            await sink.send(sent_records())
    assert server.requests == []


async def test_retry_after_in_seconds_and_as_a_date() -> None:
    failure = await failure_of(web.Response(status=429, headers={"Retry-After": "17"}))
    assert failure.retry_after == 17
    moment = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    failure = await failure_of(web.Response(status=503, headers={"Retry-After": moment}))
    assert failure.retry_after is not None
    assert 0 < failure.retry_after <= 3600
    for unreadable in ("soon", "-5", "Wed, 99 Foo", ""):
        failure = await failure_of(web.Response(status=503, headers={"Retry-After": unreadable}))
        assert failure.retry_after is None
    moment = format_datetime(datetime.now(UTC) - timedelta(hours=1))
    failure = await failure_of(web.Response(status=503, headers={"Retry-After": moment}))
    assert failure.retry_after == 0


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async def hang(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    failure = await failure_of(hang, timeout="200ms")
    assert type(failure) is Unavailable
    assert "no response within 0.2 s" in failure.message


async def test_a_connection_that_ends_early_is_temporary() -> None:
    async def drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    failure = await failure_of(drop)
    assert type(failure) is Unavailable
    async with serving() as server:
        gone = server.url
    async with http_sink(gone) as sink:
        with pytest.raises(Unavailable, match="failed to connect") as caught:
            await sink.send(sent_records())
    assert "hidden" not in caught.value.message


async def test_an_endless_answer_is_cut() -> None:
    async def pour(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=500)
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    failure = await failure_of(pour)
    assert type(failure) is Unavailable
    assert len(failure.message) == 512


async def test_a_status_counts_although_its_body_does_not_come() -> None:
    def slowly(status: int) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(status=status)
            await response.prepare(request)
            await response.write(b"the beginning")
            await asyncio.Event().wait()
            return response

        return answer

    failure = await failure_of(slowly(422), timeout="200ms")
    assert type(failure) is RecordsRefused
    assert failure.message.endswith("the beginning")
    async with serving(slowly(200)) as server, http_sink(server.url) as sink:
        await sink.send(sent_records())


async def test_clear_text_has_to_be_allowed() -> None:
    async with serving() as server, http_sink(server.url, insecure=False) as sink:
        with pytest.raises(Refused, match="insecure: true"):
            await sink.send(sent_records())
    assert server.requests == []


async def test_no_cookie_comes_back() -> None:
    async def answer(_request: web.Request) -> web.Response:
        response = web.Response()
        response.set_cookie("session", "1")
        return response

    async with serving(answer) as server, http_sink(server.url) as sink:
        await sink.send(sent_records())
        await sink.send(sent_records())
    assert "cookie" not in server.headers


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"authorization": "Basic x"}, "the operator sets"),
        ({"Idempotency-Key": "x"}, "the operator sets"),
        ({"content-TYPE": "x"}, "the operator sets"),
        ({"Webhook-Id": "x"}, "the operator sets"),
        ({"x-records-COUNT": "x"}, "the operator sets"),
        ({"X-Timestamp": "x"}, "the operator sets"),
        ({"X Y": "x"}, "not a valid name of an HTTP header"),
        ({"X-Y": "a\r\nX-Z: b"}, "printable ASCII on one line"),
    ],
)
async def test_headers_that_are_not_the_users(headers: dict[str, str], words: str) -> None:
    async with serving() as server, http_sink(server.url, headers=headers) as sink:
        with pytest.raises(Refused, match=words):
            await sink.send(sent_records())
    assert server.requests == []


async def test_a_token_of_two_lines_is_refused_unseen() -> None:
    secrets = Secrets(token=f"{TOKEN}\r\nX-Injected: 1")
    async with serving() as server, http_sink(server.url, secrets, **TOKEN_REF) as sink:
        with pytest.raises(Refused, match="the token must be printable") as caught:
            await sink.send(sent_records())
    assert TOKEN not in str(caught.value)


async def test_tls_with_an_authority_of_ones_own(certificates: Any) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificates.certificate, certificates.key)
    reference = {"caSecretRef": {"name": "cmdb", "key": "ca"}}
    secrets = Secrets(ca=certificates.authority)
    async with serving(tls=tls) as server:
        async with http_sink(server.url, secrets, **reference) as sink:
            await sink.send(sent_records())
            await sink.send(sent_records())
            secrets.values["ca"] = "not a certificate"
            with pytest.raises(Refused, match="caSecretRef contains no PEM certificate"):
                await sink.send(sent_records())
        async with http_sink(server.url) as sink:
            with pytest.raises(Refused, match="untrusted certificate"):
                await sink.send(sent_records())
        async with http_sink(server.url.replace("localhost", "127.0.0.1"), secrets) as sink:
            with pytest.raises(SinkError):
                await sink.send(sent_records())
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "0xa9.0xfe.0xa9.0xfe",
        "[::ffff:169.254.169.254]",
        "[fe80::1]",
        "[fd00:ec2::254]",
    ],
)
async def test_link_local_addresses_are_refused_however_written(host: str) -> None:
    async with http_sink(f"http://{host}/latest/meta-data") as sink:
        with pytest.raises(AddressNotAllowed, match="link-local") as caught:
            await sink.send(sent_records())
    assert caught.value.reason == "AddressNotAllowed"


async def test_a_name_is_judged_by_what_it_resolves_to() -> None:
    assert await resolve("localhost", 80)
    with pytest.raises(AddressNotAllowed):
        await resolve("169.254.1.1", 80)
    with pytest.raises(Unavailable, match="look up"):
        await resolve("no-such-host.invalid", 80)


@pytest.mark.parametrize(
    ("address", "forbidden"),
    [
        ("169.254.0.1", True),
        ("fe80::1%eth0", True),
        ("64:ff9b::a9fe:a9fe", True),
        ("2002:a9fe:a9fe::1", True),
        ("168.63.129.16", True),
        ("169.253.255.255", False),
        ("10.0.0.1", False),
        ("::1", False),
        ("fd00:ec3::1", False),
        ("2606:4700::1111", False),
    ],
)
def test_forbidden_addresses(address: str, forbidden: bool) -> None:
    assert is_forbidden(address) is forbidden
