"""Bearer tokens of the operator's own identity: where they come from, and how long they last."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import AzureSink, GCSSink
from gpuid_operator.sinks import azure, gcs_credentials
from gpuid_operator.sinks.azure import AzureContainer
from gpuid_operator.sinks.base import Refused, SinkError, Unavailable
from gpuid_operator.sinks.gcs import GCSBucket
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.object_sender import ObjectSender
from gpuid_operator.sinks.opening import SinkContext, SinkOpening
from gpuid_operator.sinks.tokens import TokenRequest, TokenSource
from tests.support.secret_source import Secrets

GOOGLE_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
RECORD = Record(
    id="u.1.1",
    event="GPUAdded",
    cluster="prod",
    node="n",
    machine="i-1",
    source="ns/pod",
    chassis="unknown",
    gpu="1",
    time=datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC),
    sequence=1,
)


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    form: dict[str, list[str]]


@dataclass
class Cloud:
    """The metadata server, the token service and the object store of a cloud."""

    url: str = ""
    lifetime: Any = 3599
    answer: web.Response | None = None
    """What it answers to a request for a token, instead of one."""
    store_status: int = 200
    asked: list[Request] = field(default_factory=list)
    stored: list[Request] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.Response:
        found = Request(
            request.method,
            request.path,
            dict(request.query),
            {name.lower(): value for name, value in request.headers.items()},
            parse_qs(await request.text()),
        )
        if "token" not in request.path:
            self.stored.append(found)
            return web.Response(status=self.store_status)
        self.asked.append(found)
        token = {"access_token": f"token-{len(self.asked)}", "expires_in": self.lifetime}
        return self.answer or web.json_response(token)

    def tokens(self) -> list[str]:
        """The tokens that the store received."""
        return [one.headers["authorization"].removeprefix("Bearer ") for one in self.stored]


@pytest.fixture
async def cloud(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cloud]:
    cloud = Cloud()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", cloud.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    cloud.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    for module in (azure, gcs_credentials):
        monkeypatch.setattr(module, "METADATA_SERVER", cloud.url)
    yield cloud
    await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[HTTPClient]:
    client = HTTPClient()
    yield client
    await client.close()


def gcs(cloud: Cloud, client: HTTPClient, **environ: str) -> ObjectSender:
    spec = GCSSink(bucket="bucket", insecure=True)
    return sender(spec, GCSBucket(spec, environ, server=cloud.url), client)


def blobs(cloud: Cloud, client: HTTPClient, **environ: str) -> ObjectSender:
    spec = AzureSink(account="account", container="bucket", insecure=True)
    return sender(spec, AzureContainer(spec, environ, server=cloud.url), client)


def sender(spec: Any, bucket: Any, client: HTTPClient) -> ObjectSender:
    context = SinkContext(http=client, write_records=lambda _: None)
    return ObjectSender(
        spec, bucket, SinkOpening(secrets=Secrets(), context=context, builtin=False)
    )


async def test_gke_gives_a_token_of_the_pods_identity(cloud: Cloud, client: HTTPClient) -> None:
    sink = gcs(cloud, client)
    await sink.send([RECORD])
    await sink.send([RECORD])
    (asked,) = cloud.asked
    assert (asked.method, asked.path) == ("GET", GOOGLE_PATH)
    assert asked.headers["metadata-flavor"] == "Google"
    assert cloud.tokens() == ["token-1", "token-1"]
    (stored, _) = cloud.stored
    assert (stored.method, stored.path) == ("POST", "/upload/storage/v1/b/bucket/o")
    assert stored.query == {
        "uploadType": "media",
        "ifGenerationMatch": "0",
        "name": stored.query["name"],
    }
    await sink.close()


async def test_a_federated_token_is_exchanged_for_one_of_google(
    cloud: Cloud, client: HTTPClient, tmp_path: Path
) -> None:
    token, configuration = tmp_path / "token", tmp_path / "config.json"
    token.write_text("token-of-the-kubelet\n")
    fields = {
        "universe_domain": "googleapis.com",
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/x",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{cloud.url}/v1/token",
        "credential_source": {"file": str(token), "format": {"type": "text"}},
    }
    configuration.write_text(json.dumps(fields))
    sink = gcs(cloud, client, GOOGLE_APPLICATION_CREDENTIALS=str(configuration))
    await sink.send([RECORD])
    (asked,) = cloud.asked
    assert (asked.method, asked.path) == ("POST", "/v1/token")
    assert asked.form == {
        "grant_type": ["urn:ietf:params:oauth:grant-type:token-exchange"],
        "audience": [fields["audience"]],
        "scope": ["https://www.googleapis.com/auth/devstorage.read_write"],
        "requested_token_type": ["urn:ietf:params:oauth:token-type:access_token"],
        "subject_token_type": [fields["subject_token_type"]],
        "subject_token": ["token-of-the-kubelet"],
    }
    assert cloud.tokens() == ["token-1"]

    # The kubelet rotates it. What the service says of it may quote it.
    token.write_text("rotated-token")
    cloud.store_status = 401
    with pytest.raises(Refused, match="401 Unauthorized"):
        await sink.send([RECORD])
    cloud.answer = web.json_response({"error": "bad: rotated-token"}, status=400)
    with pytest.raises(Refused, match=r"failed to get a token from 127\.0\.0\.1: 400 ") as caught:
        await sink.send([RECORD])
    assert cloud.asked[-1].form["subject_token"] == ["rotated-token"]
    assert "rotated-token" not in caught.value.message

    token.unlink()
    with pytest.raises(Refused, match=f"failed to read {token}: No such file"):
        await sink.send([RECORD])
    fields["service_account_impersonation_url"] = "https://iamcredentials.googleapis.com/x"
    configuration.write_text(json.dumps(fields))
    with pytest.raises(Refused, match="service_account_impersonation_url"):
        await sink.send([RECORD])
    configuration.write_text('{"type": "service_account", "private_key": "hidden"}')
    with pytest.raises(Refused, match="put the key of a service account into a Secret") as caught:
        await sink.send([RECORD])
    assert "hidden" not in caught.value.message
    await sink.close()


@pytest.mark.parametrize("client_id", [{}, {"AZURE_CLIENT_ID": "id-of-one"}])
async def test_a_managed_identity_of_the_node(
    cloud: Cloud, client: HTTPClient, client_id: dict[str, str]
) -> None:
    cloud.lifetime = "3599"  # a string, as Azure's metadata server has it
    sink = blobs(cloud, client, **client_id)
    await sink.send([RECORD])
    (asked,) = cloud.asked
    assert (asked.method, asked.path) == ("GET", "/metadata/identity/oauth2/token")
    assert asked.headers["metadata"] == "true"
    assert asked.query == {
        "api-version": "2018-02-01",
        "resource": "https://storage.azure.com/",
        **({"client_id": "id-of-one"} if client_id else {}),
    }
    (stored,) = cloud.stored
    assert stored.method == "PUT"
    assert stored.path.startswith("/account/bucket/year=2026/")
    wanted = {
        "if-none-match": "*",
        "x-ms-blob-type": "BlockBlob",
        "authorization": "Bearer token-1",
    }
    assert stored.headers.items() >= wanted.items()
    await sink.close()


async def test_workload_identity_of_azure(cloud: Cloud, client: HTTPClient, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("token-of-the-kubelet")
    environ = {
        "AZURE_CLIENT_ID": "client",
        "AZURE_TENANT_ID": "tenant",
        "AZURE_AUTHORITY_HOST": f"{cloud.url}/",
        "AZURE_FEDERATED_TOKEN_FILE": str(token),
    }
    sink = blobs(cloud, client, **environ)
    await sink.send([RECORD])
    (asked,) = cloud.asked
    assert (asked.method, asked.path) == ("POST", "/tenant/oauth2/v2.0/token")
    assert asked.form == {
        "grant_type": ["client_credentials"],
        "client_id": ["client"],
        "scope": ["https://storage.azure.com/.default"],
        "client_assertion_type": ["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"],
        "client_assertion": ["token-of-the-kubelet"],
    }
    assert cloud.tokens() == ["token-1"]
    token.unlink()
    with pytest.raises(Refused, match="AZURE_FEDERATED_TOKEN_FILE: failed to read"):
        await blobs(cloud, client, **environ).send([RECORD])
    await sink.close()


@pytest.mark.parametrize("status", [401, 403])
async def test_a_token_that_the_store_refuses_is_not_used_again(
    cloud: Cloud, client: HTTPClient, status: int
) -> None:
    sink = blobs(cloud, client)
    cloud.store_status = status
    with pytest.raises(Refused):
        await sink.send([RECORD])
    cloud.store_status = 201
    await sink.send([RECORD])
    assert cloud.tokens() == ["token-1", "token-2"]
    await sink.close()


@pytest.mark.parametrize(
    ("lifetime", "tokens"),
    [(3600, ["token-1", "token-1", "token-2"]), (100, ["token-1", "token-2", "token-3"])],
)
async def test_a_token_is_renewed_before_it_expires(
    cloud: Cloud, lifetime: int, tokens: list[str]
) -> None:
    now = 1000.0
    source = TokenSource(now=lambda: now)
    cloud.lifetime = lifetime
    request = TokenRequest(url=f"{cloud.url}/token")
    found = []
    for moment in (1000.0, 4400.0, 4421.0):
        now = moment
        found.append(await source.get(request))
    assert found == tokens
    await source.close()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((400, '{"error": "invalid_request"}'), Refused, "400 Bad Request: .*invalid_request"),
        ((404, "no service account"), Refused, "404 Not Found: no service account"),
        ((410, ""), Unavailable, "410 Gone"),
        ((429, ""), Unavailable, "429 Too Many Requests"),
        ((503, ""), Unavailable, "503 Service Unavailable"),
        ((200, ""), Unavailable, "the response is no token"),
        ((200, "[]"), Unavailable, "the response is no token"),
        ((200, "[" * 16_000), Unavailable, "the response is no token"),
        ((200, '{"access_token": "a"}'), Unavailable, "the response is no token"),
        ((200, '{"access_token": 1, "expires_in": 1}'), Unavailable, "the response is no token"),
        (
            (200, '{"access_token": "a\\nb", "expires_in": 1}'),
            Unavailable,
            "the response is no token",
        ),
        ((200, '{"access_token": "", "expires_in": 1}'), Unavailable, "the response is no token"),
        (
            (200, '{"access_token": "a", "expires_in": NaN}'),
            Unavailable,
            "the response is no token",
        ),
    ],
)
async def test_what_is_no_token(
    cloud: Cloud,
    client: HTTPClient,
    answer: tuple[int, str],
    error: type[SinkError],
    words: str,
) -> None:
    cloud.answer = web.Response(status=answer[0], text=answer[1])
    sink = gcs(cloud, client)
    with pytest.raises(SinkError, match=f"failed to get a token from 127.0.0.1: {words}") as caught:
        await sink.send([RECORD])
    assert type(caught.value) is error
    assert cloud.stored == []
    await sink.close()
