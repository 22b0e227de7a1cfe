"""Sinks whose server tries to exhaust the operator.

Each server has far more to send than its sink should read. The tests count what it could send
before the sink hung up; buffers of the system are part of that.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gpuid_operator.api.sinks import Sink
from gpuid_operator.sinks import azure
from gpuid_operator.sinks.base import RecordsRefused, Refused, SinkError, Unavailable
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.sinks.postgres_wire import MAX_ITERATIONS, MAX_MESSAGE
from gpuid_operator.sinks.registry import open_sink
from tests.support.google_keys import new_key, service_account_key
from tests.support.hostile_servers import (
    FLOOD,
    LOGIN,
    MIB,
    READY,
    SSL_REQUEST,
    Behaviour,
    HostileServer,
    http,
    message,
    over_tls,
    postgres_after_login,
    postgres_before_login,
    postgres_scram,
)
from tests.support.receivers import WebService

Failure = Callable[..., Awaitable[SinkError]]

ENOUGH = FLOOD // 4
ERROR = b"HTTP/1.1 500 Server Error\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
TEXT = b"x" * MIB


def _bodies(status: bytes) -> dict[str, Behaviour]:
    """Responses whose body does not end."""
    return {
        "length": http(status, b"Content-Length: %d\r\n\r\n" % FLOOD, flood=TEXT),
        "no length": http(status, b"\r\n", flood=TEXT),
        "chunks": http(status, CHUNKED, flood=b"100000\r\n" + TEXT + b"\r\n"),
        "small chunks": http(status, CHUNKED, flood=b"1\r\nx\r\n"),
        "chunk extension": http(status, CHUNKED, b"1;a=", flood=TEXT),
        "chunk length": http(status, CHUNKED, flood=b"0" * MIB),
        "trailers": http(status, CHUNKED, b"0\r\n", flood=b"A: b\r\n"),
    }


HTTP = _bodies(ERROR) | {
    "headers": http(ERROR, flood=b"A: b\r\n"),
    "header": http(ERROR, b"A: ", flood=TEXT),
    "reason": http(b"HTTP/1.1 500 ", flood=TEXT),
    "interim responses": http(flood=b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"),
    "responses": http(flood=ERROR + b"Content-Length: 0\r\n\r\n"),
    "no HTTP": http(flood=TEXT),
}
ACCEPTED = _bodies(b"HTTP/1.1 200 OK\r\n")
LONG = message(b"E", length=FLOOD)
TOO_LONG = rf"sent a message of {FLOOD + 4} bytes, more than {MAX_MESSAGE}"
TOO_MUCH = r"sent more than \d+ bytes"
VIOLATION = "violates the protocol of PostgreSQL"
BEGUN = [(b"BEGIN\0", message(b"C", b"BEGIN\0") + message(b"Z", b"T"))]
COPY_OUT = message(b"H", b"\0\0\1\0\0")
POSTGRES = {
    "message before login": (postgres_before_login(LONG, flood=TEXT), TOO_LONG),
    "notices before login": (postgres_before_login(flood=message(b"N", b"\0")), TOO_MUCH),
    "parameters before login": (postgres_before_login(flood=message(b"S", b"a\0b\0")), TOO_MUCH),
    "authentication": (
        postgres_before_login(flood=message(b"R", struct.pack("!i", 5) + b"salt")),
        "demands authentication without end",
    ),
    "SCRAM without its first step": (
        postgres_before_login(message(b"R", struct.pack("!i", 11) + b"r=x"), flood=READY),
        VIOLATION,
    ),
    "SCRAM without its second step": (
        postgres_before_login(message(b"R", struct.pack("!i", 12) + b"v=x"), flood=READY),
        VIOLATION,
    ),
    "type 0": (
        postgres_before_login(message(b"\0", b"x"), flood=READY),
        "sent an invalid message of type b'.x00'",
    ),
    "negative length": (
        postgres_before_login(flood=b"E\xff\xff\xff\xff"),
        "sent an invalid message of type b'E'",
    ),
    "message after login": (postgres_after_login([], LONG, flood=TEXT), TOO_LONG),
    "notices after login": (postgres_after_login([], flood=message(b"N", b"\0")), TOO_MUCH),
    "rows": (postgres_after_login([], flood=message(b"D", b"\0\0")), TOO_MUCH),
    "row": (
        postgres_after_login(BEGUN, COPY_OUT, message(b"d", length=FLOOD), flood=TEXT),
        TOO_LONG,
    ),
    "rows of a copy": (
        postgres_after_login(BEGUN, COPY_OUT, flood=message(b"d", b"{}\n")),
        TOO_MUCH,
    ),
    "results": (
        postgres_after_login([], flood=message(b"C", b"BEGIN\0") + message(b"Z", b"T")),
        rf"{TOO_MUCH}|{VIOLATION}",
    ),
    "a result without a query": (postgres_before_login(*LOGIN, READY, flood=READY), VIOLATION),
}


@pytest.fixture(scope="module")
def service_account() -> str:
    return json.dumps(service_account_key(new_key()))


@pytest.fixture
async def failure(record: Any, make_secrets: Any, service_account: str) -> AsyncIterator[Failure]:
    """The error of a sink that sends a record to a server."""
    client = HTTPClient()
    secrets = make_secrets(
        user="gpuid",
        password="the-password",
        token="the-token",
        AWS_ACCESS_KEY_ID="AKID",
        AWS_SECRET_ACCESS_KEY="the-secret-key",
        GOOGLE_SERVICE_ACCOUNT_KEY=service_account,
        AZURE_STORAGE_ACCOUNT_KEY="dGhlLXNlY3JldC1rZXk=",
    )

    async def send(authority: str | None = None, **spec: Any) -> SinkError:
        secrets.values["ca"] = authority or ""
        sink = open_sink(
            Sink.model_validate({"name": "sink", **spec}),
            secrets=secrets,
            context=SinkContext(http=client, write_records=lambda _: None),
        )
        with pytest.raises(SinkError) as caught:
            await sink.send([record()])
        await sink.close()
        return caught.value

    tracemalloc.start()
    yield send
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await client.close()
    assert peak < 20 * MIB


def _http(port: int, **fields: Any) -> dict[str, Any]:
    return {"http": {"url": f"http://localhost:{port}/?key=hidden", "insecure": True, **fields}}


OBJECT_STORES = {
    "s3": {"bucket": "bucket"},
    "gcs": {"bucket": "bucket"},
    "azure": {"account": "account", "container": "bucket"},
}


def _objects(kind: str, port: int, **fields: Any) -> dict[str, Any]:
    at = {"endpoint": f"http://localhost:{port}", "insecure": True}
    reference = {"credentialsSecretRef": {"name": "lake"}}
    return {kind: {**OBJECT_STORES[kind], **reference, **at, **fields}}


def _postgres(port: int, **fields: Any) -> dict[str, Any]:
    references = {f"{key}SecretRef": {"name": "pg", "key": key} for key in ("user", "password")}
    at = {"host": "localhost", "port": port, "database": "d", "sslMode": "disable"}
    return {"postgres": {**at, **references, **fields}}


@pytest.fixture
def tls(certificates: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    return context


@pytest.mark.parametrize("behaviour", HTTP.values(), ids=HTTP)
async def test_an_http_server_cannot_send_without_end(
    behaviour: Behaviour, failure: Failure
) -> None:
    async with HostileServer(behaviour) as server:
        error = await failure(**_http(server.port))
    assert type(error) is Unavailable
    assert f"POST http://localhost:{server.port}: " in error.message
    assert "hidden" not in error.message
    assert server.sent < ENOUGH


@pytest.mark.parametrize("behaviour", ACCEPTED.values(), ids=ACCEPTED)
async def test_an_otlp_receiver_cannot_send_without_end(
    behaviour: Behaviour, failure: Failure
) -> None:
    """The sink reads also what a receiver says when it accepts."""
    async with HostileServer(behaviour) as server:
        error = await failure(**_http(server.port, format="otlp"))
    assert type(error) in (Unavailable, RecordsRefused)
    assert f"POST http://localhost:{server.port}: " in error.message
    assert server.sent < ENOUGH


@pytest.mark.parametrize("kind", OBJECT_STORES)
@pytest.mark.parametrize("behaviour", HTTP.values(), ids=HTTP)
async def test_an_object_store_cannot_send_without_end(
    behaviour: Behaviour, kind: str, failure: Failure
) -> None:
    async with HostileServer(behaviour) as server:
        error = await failure(**_objects(kind, server.port))
    assert type(error) is Unavailable
    assert re.match(r"failed to put an? \w+ into \w+ bucket at localhost: ", error.message)
    assert "Signature" not in error.message
    assert server.sent < ENOUGH


@pytest.mark.parametrize("behaviour", HTTP.values(), ids=HTTP)
async def test_a_token_service_cannot_send_without_end(
    behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    """No user chooses it, but its responses are bounded all the same."""
    async with HostileServer(behaviour) as server:
        monkeypatch.setattr(azure, "METADATA_SERVER", f"http://localhost:{server.port}")
        error = await failure(azure=OBJECT_STORES["azure"])
    assert type(error) is Unavailable
    assert error.message.startswith("failed to get a token from localhost: ")
    assert server.sent < ENOUGH


async def test_interim_responses_are_named_as_what_was_too_much(failure: Failure) -> None:
    async with HostileServer(HTTP["interim responses"]) as server:
        error = await failure(**_http(server.port))
    assert error.message.endswith("the server sent more than 262144 bytes")


@pytest.mark.parametrize("behaviour", HTTP.values(), ids=HTTP)
async def test_an_https_server_cannot_send_without_end(
    behaviour: Behaviour, failure: Failure, tls: ssl.SSLContext, certificates: Any
) -> None:
    async with HostileServer(over_tls(behaviour, tls)) as server:
        error = await failure(
            certificates.authority,
            **_http(
                server.port,
                url=f"https://localhost:{server.port}/",
                caSecretRef={"name": "cmdb", "key": "ca"},
            ),
        )
    assert type(error) is Unavailable
    assert f"POST https://localhost:{server.port}: " in error.message
    assert "certificate" not in error.message
    assert server.sent < ENOUGH


@pytest.mark.parametrize("kind", OBJECT_STORES)
async def test_an_object_store_with_an_unknown_authority_is_refused(
    kind: str, failure: Failure, tls: ssl.SSLContext
) -> None:
    async with HostileServer(over_tls(HTTP["length"], tls)) as server:
        endpoint = f"https://localhost:{server.port}"
        error = await failure(**_objects(kind, server.port, endpoint=endpoint))
    assert type(error) is Refused
    assert "untrusted certificate" in error.message
    assert "caSecretRef" not in error.message
    assert server.sent == 0


@pytest.mark.parametrize(("behaviour", "reason"), POSTGRES.values(), ids=POSTGRES)
async def test_a_postgres_server_cannot_send_without_end(
    behaviour: Behaviour, reason: str, failure: Failure
) -> None:
    async with HostileServer(behaviour) as server:
        error = await failure(**_postgres(server.port))
    assert type(error) is Refused
    assert "failed to insert into serials at localhost:" in error.message
    with pytest.raises(SinkError, match=reason):
        raise error
    assert server.sent < ENOUGH


@pytest.mark.parametrize(("behaviour", "reason"), POSTGRES.values(), ids=POSTGRES)
async def test_a_postgres_server_cannot_send_without_end_over_tls(
    behaviour: Behaviour, reason: str, failure: Failure, tls: ssl.SSLContext
) -> None:
    async with HostileServer(over_tls(behaviour, tls, request=SSL_REQUEST)) as server:
        error = await failure(**_postgres(server.port, sslMode="require"))
    assert type(error) is Refused
    with pytest.raises(SinkError, match=reason):
        raise error
    assert server.sent < ENOUGH


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncpg's __del__
@pytest.mark.parametrize(
    "version", [b"", message(b"S", b"server_version\x00" + b"9" * 9000 + b"\0")]
)
async def test_a_postgres_server_without_a_version_is_an_error(
    version: bytes, failure: Failure
) -> None:
    behaviour = postgres_before_login(LOGIN[0], version, READY, flood=READY)
    async with HostileServer(behaviour) as server:
        error = await failure(**_postgres(server.port))
    assert "failed to insert into serials at localhost:" in error.message


async def test_an_error_of_postgres_is_reported_by_its_beginning(failure: Failure) -> None:
    said = message(b"E", b"SFATAL\0C53300\0Mtoo many " + b"x" * (MAX_MESSAGE - 64) + b"\0\0")
    async with HostileServer(postgres_before_login(said, flood=said)) as server:
        error = await failure(**_postgres(server.port))
    assert type(error) is Unavailable
    assert "too many xxx" in error.message
    assert len(error.message) <= 512
    assert server.sent < ENOUGH


@pytest.mark.parametrize("iterations", [b"100001", b"2147483647", b"%040d" % 2**30, b"9" * 40])
async def test_a_postgres_server_cannot_demand_work_without_end(
    iterations: bytes, failure: Failure
) -> None:
    async with HostileServer(postgres_scram(iterations)) as server:
        error = await failure(**_postgres(server.port))
    assert type(error) is Refused
    assert f"demands more than {MAX_ITERATIONS} SCRAM iterations" in error.message


async def test_iterations_within_the_bound_are_computed(failure: Failure) -> None:
    async with HostileServer(postgres_scram(b"%d" % MAX_ITERATIONS)) as server:
        error = await failure(**_postgres(server.port))
    # The server hangs up after it received the proof.
    assert type(error) is Unavailable


async def test_the_columns_of_a_table_are_not_what_a_server_makes_of_them(failure: Failure) -> None:
    row = (
        message(b"d", b'{"oid": "1", "columns": 1}\n') + message(b"c") + message(b"C", b"COPY 1\0")
    )
    reply = COPY_OUT + row + message(b"Z", b"T")
    behaviour = postgres_after_login([*BEGUN, (b"STDOUT \0", reply)], flood=READY)
    async with HostileServer(behaviour) as server:
        error = await failure(**_postgres(server.port))
    assert type(error) is Unavailable
    assert "validation error" in error.message


async def test_other_sinks_go_on(failure: Failure, record: Any, make_secrets: Any) -> None:
    behaviour, _ = POSTGRES["message before login"]
    client = HTTPClient()
    async with HostileServer(behaviour) as server:
        with WebService() as service:
            sink = open_sink(
                Sink.model_validate(service.sink()),
                secrets=make_secrets(),
                context=SinkContext(http=client, write_records=lambda _: None),
            )
            await asyncio.gather(
                *(failure(**_postgres(server.port)) for _ in range(4)),
                sink.send([record(id="a.1.1")]),
            )
            assert [one["id"] for one in service.records] == ["a.1.1"]
    await client.close()
