"""The sinks with object stores, each against its server."""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import connector, web

from gpuid_operator.api.sinks import AzureSink, S3Sink, Sink
from gpuid_operator.sinks.azure import AzureContainer
from gpuid_operator.sinks.base import (
    AddressNotAllowed,
    Refused,
    SecretMissing,
    SecretNotAllowed,
    SinkError,
    Unavailable,
)
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.object_sender import ObjectSender
from gpuid_operator.sinks.objects import objects_of
from gpuid_operator.sinks.opening import SinkContext, SinkOpening
from gpuid_operator.sinks.registry import open_sink
from tests.support import golden
from tests.support.api_fault_proxy import Position
from tests.support.google_keys import new_key, private_key, public_key
from tests.support.object_servers import GCS, S3, Azure, ObjectServer, run_azure
from tests.support.secret_source import Secrets
from tests.support.tcp_fault_proxy import TcpFaultProxy

Open = Callable[..., Any]
Answering = Callable[[int, str], Awaitable[str]]
_NUMBERS = itertools.count()


@pytest.fixture(params=["s3", "gcs", "azure"])
def server(request: pytest.FixtureRequest) -> ObjectServer:
    found: ObjectServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def bucket(server: ObjectServer) -> str:
    """An empty bucket."""
    name = f"bucket-{next(_NUMBERS)}"
    server.create(name)
    return name


@pytest.fixture
def secrets(server: ObjectServer, make_secrets: Any) -> Any:
    return make_secrets(**server.credentials)


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens a sink that delivers to a bucket of a server, or to the cloud."""
    client = HTTPClient()
    sinks = []

    def open_at(server: ObjectServer, bucket: str, secrets: Any, **fields: Any) -> Any:
        settings = {
            "endpoint": server.url,
            "insecure": True,
            "credentialsSecretRef": {"name": "lake"},
            **server.settings(bucket),
            **fields,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        sink = open_sink(
            Sink.model_validate({"name": "lake", server.type: given}),
            secrets=secrets,
            context=SinkContext(http=client, write_records=lambda _: None),
        )
        sinks.append(sink)
        return sink

    yield open_at
    for sink in sinks:
        await sink.close()
    await client.close()


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """A server with one handler for everything; its URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def answering() -> AsyncIterator[Answering]:
    """Starts a server with one answer to everything; returns its URL."""
    async with AsyncExitStack() as stack:

        async def start(status: int, text: str) -> str:
            async def answer(_request: web.Request) -> web.Response:
                return web.Response(status=status, text=text, headers={"Retry-After": "77"})

            return await stack.enter_async_context(serving(answer))

        yield start


async def test_objects_have_the_golden_bytes(
    server: ObjectServer, bucket: str, secrets: Any, opened: Open
) -> None:
    lake = opened(server, bucket, secrets, prefix="gpus", format="jsonl")
    await lake.send(golden.records(golden.MOVED))
    assert server.objects(bucket) == {f"gpus/{golden.JSONL_KEY}": golden.RECORD + b"\n"}


async def test_csv_has_gpuids_columns(
    server: ObjectServer, bucket: str, secrets: Any, record: Any, opened: Open
) -> None:
    awkward = record(node=' a,"b"', gpu="na", uuid=None)
    lake = opened(server, bucket, secrets, prefix="/fleet/gpus/")
    await lake.send([record(), awkward])
    ((key, content),) = server.objects(bucket).items()
    folder, _, name = key.rpartition("/")
    assert folder == "fleet/gpus/year=2026/month=06/day=07/hour=10"
    assert name.startswith("20260607-103045.000-")
    assert name.endswith(".csv")
    assert content.decode().splitlines()[1].startswith('prod," a,""b""",i-1,')
    assert next(csv.reader(io.StringIO(content.decode()))) == [
        "prod",
        "gpu-1",
        "i-1",
        "gpu-operator/plugin-abc",
        "1821325191344",
        "1761025346025",
        "2026-06-07T10:30:45Z",
    ]
    assert secrets.hosts == {"127.0.0.1"}


async def test_the_same_batch_is_stored_once(
    server: ObjectServer, bucket: str, secrets: Any, record: Any, opened: Open
) -> None:
    batch = [record(), record()]
    form = {"format": "jsonl", "partition": "%Y/%j"}
    lake = opened(server, bucket, secrets, **form)
    await lake.send(batch)
    await lake.send(batch)
    await opened(server, bucket, secrets, **form).send(batch)
    ((key, content),) = server.objects(bucket).items()
    assert key.startswith("2026/158/20260607-103045.000-")
    assert key.endswith(".jsonl")
    assert [json.loads(line) for line in content.splitlines()] == [r.to_json() for r in batch]


async def test_an_object_is_never_replaced(
    server: ObjectServer, bucket: str, secrets: Any, record: Any, opened: Open
) -> None:
    """Objects of another content under the same key do not occur; but if they did."""
    first, other = record(id="a.1.1"), record(id="a.1.1", node="gpu-2")
    await opened(server, bucket, secrets).send([first])
    before = server.objects(bucket)
    await opened(server, bucket, secrets).send([other])
    assert server.objects(bucket) == before


@pytest.mark.parametrize("prefix", ["ä ö/%41?&#+", 'say "x"'])
async def test_a_prefix_of_any_text_is_part_of_the_key(
    server: ObjectServer, bucket: str, secrets: Any, record: Any, opened: Open, prefix: str
) -> None:
    await opened(server, bucket, secrets, prefix=prefix).send([record()])
    (key,) = server.objects(bucket)
    assert key.startswith(f"{prefix}/year=2026/")


async def test_a_batch_over_two_hours_gives_two_objects(
    server: ObjectServer,
    bucket: str,
    secrets: Any,
    record: Any,
    opened: Open,
    caplog: pytest.LogCaptureFixture,
) -> None:
    later = datetime(2026, 6, 7, 11, 0, tzinfo=UTC)
    with caplog.at_level(logging.INFO):
        await opened(server, bucket, secrets).send([record(), record(time=later), record()])
    objects = server.objects(bucket)
    assert [key.split("/")[3] for key in objects] == ["hour=10", "hour=11"]
    assert [content.count(b"\n") for content in objects.values()] == [2, 1]
    exports = [vars(line)["fields"] for line in caplog.records if line.msg == "export completed"]
    assert exports == [
        {"bucket": bucket, "key": key, "records": count, "size_bytes": len(content)}
        for (key, content), count in zip(objects.items(), (2, 1), strict=True)
    ]


async def test_no_bucket_is_permanent(
    server: ObjectServer, secrets: Any, record: Any, opened: Open
) -> None:
    with pytest.raises(Refused, match=r"404 (.* )?(NoSuchBucket|notFound|ContainerNotFound)"):
        await opened(server, "no-such-bucket", secrets).send([record()])


@pytest.mark.parametrize("prefix", ["a/../b", ".", "a\tb"])
async def test_a_key_that_no_store_has_is_permanent(
    server: ObjectServer, secrets: Any, record: Any, opened: Open, prefix: str
) -> None:
    with pytest.raises(Refused, match=r"cannot store an object as .*: change the prefix"):
        await opened(server, "bucket", secrets, prefix=prefix).send([record()])


@pytest.mark.parametrize("position", [Position.BEFORE, Position.AFTER])
async def test_a_batch_is_sent_again_after_an_outage(
    server: ObjectServer,
    bucket: str,
    secrets: Any,
    record: Any,
    opened: Open,
    position: Position,
) -> None:
    """The server has not seen the request, or has answered it and the answer is lost."""
    batch = [record()]
    with TcpFaultProxy(int(server.url.rpartition(":")[2])) as proxy:
        lake = opened(server, bucket, secrets, endpoint=f"http://127.0.0.1:{proxy.port}")

        def lose() -> None:
            """The next one, too: aiohttp sends a PUT again itself."""
            proxy.set_trap(b"year", position, lose)

        lose()
        with pytest.raises(Unavailable, match="failed to put "):
            await lake.send(batch)
        assert len(server.objects(bucket)) == (position is Position.AFTER)
        proxy.set_trap(b"never", position, lose)
        await lake.send(batch)
        assert len(server.objects(bucket)) == 1
    with pytest.raises(Unavailable, match="failed to connect"):
        await lake.send([record()])


def google_error(reason: str, message: str) -> str:
    return json.dumps({"error": {"message": message, "errors": [{"reason": reason}]}})


ANSWERS = {
    "s3": "<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>",
    "azure": "\ufeff<?xml version='1.0'?><Error><Code>SlowDown</Code>"
    "<Message>Reduce your rate\nRequestId:1\nTime:2</Message></Error>",
    "gcs": google_error("SlowDown", "Reduce your rate"),
}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, Unavailable) for status in (503, 500, 429, 409, 408)),
        *((status, Refused) for status in (400, 401, 403, 404, 413, 301)),
    ],
)
async def test_what_a_status_means(
    server: ObjectServer,
    status: int,
    error: type[SinkError],
    record: Any,
    secrets: Any,
    opened: Open,
    answering: Answering,
) -> None:
    url = await answering(status, ANSWERS[server.type])
    with pytest.raises(SinkError, match="SlowDown: Reduce your rate") as caught:
        await opened(server, "bucket", secrets, endpoint=url).send([record()])
    assert type(caught.value) is error
    assert caught.value.retry_after == 77
    assert secrets.invalidated == (status in (401, 403))
    for value in secrets.values.values():
        assert value not in caught.value.message


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[1]", '{"error": 1}', '{"error": {"errors": [1], "message": null}}']
)
async def test_a_response_of_another_form_is_reported_by_its_status(
    gcs: GCS, make_secrets: Any, record: Any, opened: Open, answering: Answering, text: str
) -> None:
    secrets = make_secrets(**gcs.credentials)
    lake = opened(gcs, "bucket", secrets, endpoint=await answering(502, text))
    with pytest.raises(Unavailable, match="502 Bad Gateway"):
        await lake.send([record()])


async def test_a_port_that_is_none_is_refused(
    server: ObjectServer, record: Any, secrets: Any, opened: Open
) -> None:
    lake = opened(server, "bucket", secrets, endpoint="http://localhost:65536")
    with pytest.raises(Refused, match="invalid settings: Port out of range"):
        await lake.send([record()])


async def test_a_link_local_endpoint_is_refused(
    server: ObjectServer, record: Any, secrets: Any, opened: Open
) -> None:
    metadata = "http://169.254.169.254"
    with pytest.raises(AddressNotAllowed):
        await opened(server, "bucket", secrets, endpoint=metadata).send([record()])
    with pytest.raises(Refused, match="insecure: true"):
        await opened(server, "bucket", secrets, insecure=False).send([record()])


async def test_a_foreign_endpoint_does_not_get_the_credentials_of_the_operator(
    server: ObjectServer, record: Any, secrets: Any, opened: Open
) -> None:
    lake = opened(server, "bucket", secrets, credentialsSecretRef=None)
    with pytest.raises(Refused, match=r"not to 127\.0\.0\.1: set credentialsSecretRef"):
        await lake.send([record()])


MISSING = {
    "s3": "Secret lake has no key AWS_ACCESS_KEY_ID: add it",
    "gcs": "Secret lake has no key GOOGLE_SERVICE_ACCOUNT_KEY: add it",
    "azure": "Secret lake has neither a key AZURE_STORAGE_SAS_TOKEN nor AZURE_STORAGE_ACCOUNT_KEY",
}
HOSTS = {
    "s3": ("s3.eu-west-1.amazonaws.com", {"region": "eu-west-1"}),
    "gcs": ("storage.googleapis.com", {}),
    "azure": ("fleetaccount.blob.core.windows.net", {}),
}


async def test_without_an_endpoint_the_secret_is_for_the_host_of_the_cloud(
    server: ObjectServer, record: Any, make_secrets: Any, opened: Open
) -> None:
    host, fields = HOSTS[server.type]
    secrets = make_secrets()
    with pytest.raises(SecretMissing, match=MISSING[server.type]):
        await opened(server, "bucket", secrets, endpoint=None, **fields).send([record()])
    assert secrets.hosts == {host}


async def test_a_secret_that_is_not_for_the_host_is_not_sent(
    server: ObjectServer, bucket: str, secrets: Any, record: Any, opened: Open
) -> None:
    async def forbid(*_: object, **__: object) -> dict[str, str]:
        raise SecretNotAllowed("not for this host")

    secrets.get_all = forbid
    with pytest.raises(SecretNotAllowed):
        await opened(server, bucket, secrets).send([record()])
    assert server.objects(bucket) == {}


async def test_a_wrong_key_is_refused_and_a_new_one_works_without_restart(
    server: ObjectServer,
    bucket: str,
    secrets: Any,
    record: Any,
    opened: Open,
    wrong: dict[str, str],
) -> None:
    lake = opened(server, bucket, secrets)
    right, secrets.values = secrets.values, wrong
    with pytest.raises(Refused, match=REJECTED[server.type]) as caught:
        await lake.send([record()])
    assert secrets.invalidated == 1
    for value in wrong.values():
        assert value not in caught.value.message
    secrets.values = right
    await lake.send([record()])
    assert len(server.objects(bucket)) == 1


REJECTED = {
    "s3": "403 Forbidden SignatureDoesNotMatch",
    "gcs": "401 Unauthorized authError",
    "azure": "403 AuthorizationFailure: Server failed to authenticate the request",
}


@pytest.fixture
def wrong(server: ObjectServer, s3: S3, other_key: str) -> dict[str, str]:
    """Credentials that the server does not accept."""
    if isinstance(server, S3):
        return {**s3.credentials, "AWS_SECRET_ACCESS_KEY": "hidden-and-wrong"}
    if isinstance(server, GCS):
        account = json.loads(server.credentials["GOOGLE_SERVICE_ACCOUNT_KEY"])
        return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps({**account, "private_key": other_key})}
    return {"AZURE_STORAGE_ACCOUNT_KEY": "aGlkZGVuIGFuZCB3cm9uZw=="}


@pytest.fixture(scope="session")
def other_key() -> str:
    """A private key of nobody."""
    return private_key(new_key())


@pytest.mark.parametrize("server", ["gcs", "azure"], indirect=True)
@pytest.mark.parametrize("value", ["", "no/key", "{}", '{"type": "authorized_user"}', "[" * 9000])
async def test_a_malformed_key_is_an_error_in_words(
    server: ObjectServer, secrets: Any, record: Any, opened: Open, value: str
) -> None:
    """Any text can be a key of S3."""
    secrets.values = dict.fromkeys(secrets.values, value)
    with pytest.raises(Refused, match=r"Secret lake (has|is not).*: (add|replace) ") as caught:
        await opened(server, "bucket", secrets).send([record()])
    assert not value or value not in caught.value.message


@pytest.mark.parametrize("public", [True, False])
async def test_a_private_key_that_is_none_is_an_error_in_words(
    gcs: GCS, make_secrets: Any, record: Any, opened: Open, public: bool
) -> None:
    account = json.loads(gcs.credentials["GOOGLE_SERVICE_ACCOUNT_KEY"])
    account["private_key"] = account["private_key"][:-80] + "hidden"
    if public:
        account["private_key"] = public_key(new_key())
    secrets = make_secrets(GOOGLE_SERVICE_ACCOUNT_KEY=json.dumps(account))
    with pytest.raises(Refused, match="private_key: no RSA key in PEM format") as caught:
        await opened(gcs, "bucket", secrets).send([record()])
    assert "hidden" not in caught.value.message


async def test_a_token_of_workload_identity_is_accepted(
    certificates: Any, record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """azurite looks at audience, issuer and times of a token, and takes it over TLS only."""
    claims = {"aud": "https://storage.azure.com", "iss": "https://sts.windows.net/tenant/"}
    now = int(time.time())
    times = {"iat": now, "nbf": now, "exp": now + 3600}
    tokens = iter(
        [jwt.encode({**claims, **times, "aud": aud}, "k" * 32) for aud in ("other", claims["aud"])]
    )

    async def exchange(_request: web.Request) -> web.Response:
        return web.json_response({"access_token": next(tokens), "expires_in": 3600})

    trust = ssl.create_default_context(cadata=certificates.authority)
    monkeypatch.setattr(connector, "_SSL_CONTEXT_VERIFIED", trust)
    kubelet = tmp_path / "token"
    kubelet.write_text("of the kubelet")
    client = HTTPClient()
    with run_azure(certificates) as server:
        server.create("oauth")
        async with serving(exchange) as authority:
            environ = {
                "AZURE_FEDERATED_TOKEN_FILE": str(kubelet),
                "AZURE_AUTHORITY_HOST": authority,
                "AZURE_CLIENT_ID": "client",
                "AZURE_TENANT_ID": "tenant",
            }
            spec = AzureSink(account=server.account, container="oauth")
            context = SinkContext(http=client, write_records=lambda _: None)
            lake = ObjectSender(
                spec,
                AzureContainer(spec, environ, server=server.url),
                SinkOpening(secrets=Secrets(), context=context, builtin=False),
            )
            with pytest.raises(Refused, match="403 AuthenticationFailed"):
                await lake.send([record()])
            await lake.send([record()])
            await lake.close()
        assert len(server.objects("oauth")) == 1
    await client.close()


async def test_a_sas_token_that_may_create_and_write_suffices(
    azure: Azure, make_secrets: Any, record: Any, opened: Open
) -> None:
    azure.create("sas")
    secrets = make_secrets(AZURE_STORAGE_SAS_TOKEN=f"?{azure.sas('cw')}")
    lake = opened(azure, "sas", secrets)
    batch = [record()]
    await lake.send(batch)
    await lake.send(batch)
    assert len(azure.objects("sas")) == 1
    secrets.values["AZURE_STORAGE_SAS_TOKEN"] = azure.sas("r")
    with pytest.raises(Refused, match="AuthorizationPermissionMismatch") as caught:
        await lake.send([record()])
    assert "sig" not in caught.value.message


async def test_the_signature_of_a_sas_token_is_secret_by_itself(
    azure: Azure, make_secrets: Any, record: Any, opened: Open, answering: Answering
) -> None:
    said = "<Error><Code>Other</Code><Message>for hid%2Bden= and hid+den=</Message></Error>"
    secrets = make_secrets(AZURE_STORAGE_SAS_TOKEN="sp=cw&sig=hid%2Bden=")
    lake = opened(azure, "sas", secrets, endpoint=await answering(403, said))
    with pytest.raises(Refused, match=r"Other: for \[secret\] and \[secret\]"):
        await lake.send([record()])


async def test_the_account_is_in_the_path_or_in_the_host(
    azure: Azure,
    make_secrets: Any,
    record: Any,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    azure.create("host-style")
    host = f"{azure.account}.blob.localhost"
    look_up = socket.getaddrinfo

    def at_home(name: str, *args: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if name == host else name, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", at_home)
    secrets = make_secrets(**azure.credentials)
    endpoint = f"http://{host}:{azure.url.rpartition(':')[2]}"
    await opened(azure, "host-style", secrets, endpoint=endpoint).send([record()])
    assert len(azure.objects("host-style")) == 1
    assert secrets.hosts == {host}


EXISTS = {
    "s3": (412, "<Error><Code>PreconditionFailed</Code></Error>"),
    "gcs": (
        403,
        google_error("forbidden", "a@b does not have storage.objects.delete access to it"),
    ),
    "azure": (403, "<Error><Code>UnauthorizedBlobOverwrite</Code></Error>"),
}


async def test_a_writer_without_the_right_to_replace_learns_of_an_object_by_403(
    server: ObjectServer, secrets: Any, record: Any, opened: Open, answering: Answering
) -> None:
    """Both clouds document it; their stand-ins answer otherwise."""
    lake = opened(server, "bucket", secrets, endpoint=await answering(*EXISTS[server.type]))
    await lake.send([record()])


@pytest.mark.parametrize("right", ["create", "delete and storage.objects.create"])
async def test_a_writer_without_the_right_to_create_is_refused(
    gcs: GCS, make_secrets: Any, record: Any, opened: Open, answering: Answering, right: str
) -> None:
    said = google_error("forbidden", f"a@b does not have storage.objects.{right} access to it")
    lake = opened(gcs, "b", make_secrets(**gcs.credentials), endpoint=await answering(403, said))
    with pytest.raises(Refused, match="forbidden: a@b does not have"):
        await lake.send([record()])


async def test_a_session_token_of_the_environment_is_not_mixed_in(
    s3: S3, make_secrets: Any, record: Any, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.create("session-token")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-operator")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-operator")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    await opened(s3, "session-token", make_secrets(**s3.credentials)).send([record()])
    assert len(s3.objects("session-token")) == 1


def test_hours_of_a_day_are_far_fewer_than_records(record: Any) -> None:
    start = datetime(2026, 6, 7, tzinfo=UTC)
    records = [record(time=start + timedelta(seconds=n)) for n in range(8000)]
    objects = objects_of(records, S3Sink(bucket="b"))
    assert len(objects) == 3
    assert len({item.key for item in objects}) == 3
