"""To whom the s3 sink sends the credentials of the operator's environment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import Sink
from gpuid_operator.sinks import base
from gpuid_operator.sinks.base import Refused
from gpuid_operator.sinks.cloud_endpoints import is_aws_endpoint
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.sinks.registry import open_sink
from tests.support.secret_source import Secrets

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


class Server:
    """A server that anyone could run; it accepts every object."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/v1/credentials":
            assert request.headers["Authorization"] == "token-of-the-pod"
            return web.json_response(
                {
                    "AccessKeyId": "key-of-the-pod",
                    "SecretAccessKey": "hidden",
                    "Token": "session-of-the-pod",
                    "Expiration": "2999-01-01T00:00:00Z",
                }
            )
        self.requests.append({name.lower(): value for name, value in request.query.items()})
        return web.Response(headers={"ETag": '"e"'})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-operator")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-operator")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-the-operator")


@pytest.fixture
async def lake() -> AsyncIterator[Callable[..., base.Sink]]:
    """Opens a sink."""
    client = HTTPClient()

    def opened(
        *, secrets: Secrets | None = None, builtin: bool = False, **fields: Any
    ) -> base.Sink:
        spec = {"bucket": "b", "insecure": True, **fields}
        return open_sink(
            Sink.model_validate({"name": "lake", "s3": spec}),
            secrets=secrets or Secrets(),
            context=SinkContext(http=client, write_records=lambda _: None),
            builtin=builtin,
        )

    yield opened
    await client.close()


async def test_a_foreign_endpoint_does_not_get_the_credentials_of_the_operator(
    server: Server, lake: Any
) -> None:
    with pytest.raises(Refused, match=r"not to 127\.0\.0\.1: set credentialsSecretRef") as caught:
        await lake(endpoint=server.url).send([RECORD])
    assert type(caught.value) is Refused
    assert server.requests == []


async def test_a_foreign_endpoint_gets_the_credentials_of_its_secret(
    server: Server, lake: Any
) -> None:
    secrets = Secrets(AWS_ACCESS_KEY_ID="key-of-the-secret", AWS_SECRET_ACCESS_KEY="hidden")
    sink = lake(secrets=secrets, endpoint=server.url, credentialsSecretRef={"name": "lake"})
    await sink.send([RECORD])
    (request,) = server.requests
    assert "key-of-the-secret" in request["x-amz-credential"]
    assert "of-the-operator" not in str(request)


async def test_the_sink_of_the_environment_uses_its_credentials_with_any_endpoint(
    server: Server, lake: Any
) -> None:
    await lake(endpoint=server.url, builtin=True).send([RECORD])
    (request,) = server.requests
    assert "key-of-the-operator" in request["x-amz-credential"]
    assert request["x-amz-security-token"] == "token-of-the-operator"


async def test_pod_identity_provides_the_credentials(
    server: Server, lake: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    token = tmp_path / "token"
    token.write_text("token-of-the-pod")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/v1/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
    await lake(endpoint=server.url, builtin=True).send([RECORD])
    (request,) = server.requests
    assert request["x-amz-credential"].startswith("key-of-the-pod/")
    assert request["x-amz-security-token"] == "session-of-the-pod"


@pytest.mark.parametrize("reference", [{}, {"credentialsSecretRef": {"name": "lake"}}])
async def test_a_region_cannot_lead_to_another_host(reference: dict[str, Any], lake: Any) -> None:
    with pytest.raises(Refused, match="region must consist of") as caught:
        await lake(region="evil.example/x#", **reference).send([RECORD])
    assert type(caught.value) is Refused


@pytest.mark.parametrize(
    "host",
    [
        "s3.amazonaws.com",
        "s3.eu-west-1.amazonaws.com",
        "S3.eu-west-1.amazonaws.com:443",
        "s3-us-west-2.amazonaws.com",
        "s3-fips.dualstack.us-gov-west-1.amazonaws.com",
        "s3.cn-north-1.amazonaws.com.cn",
        "s3.eu-west-1.api.aws",
        "s3-accelerate.amazonaws.com",
        "bucket.vpce-1a2b-3c4d.s3.us-east-1.vpce.amazonaws.com",
        "vpce-1a2b-3c4d.s3.us-east-1.vpce.amazonaws.com",
    ],
)
def test_an_endpoint_of_aws(host: str) -> None:
    assert is_aws_endpoint(f"https://{host}")
    assert is_aws_endpoint(f"https://{host}/")


@pytest.mark.parametrize(
    "host",
    [
        "s3.example.com",
        "amazonaws.com.evil.example",
        "s3.amazonaws.com.evil.example",
        "s3.evilamazonaws.com",
        "evil.example\\.s3.amazonaws.com",
        "evil.example\\s3.amazonaws.com",
        "evil.example:443\\.s3.amazonaws.com",
        "s3.amazonaws.com:8443",
        "ec2-192-0-2-1.eu-west-1.compute.amazonaws.com",
        "s3.ec2-192-0-2-1.eu-west-1.compute.amazonaws.com",
        "s3-1234.us-east-1.elb.amazonaws.com",
        "abc123.execute-api.us-east-1.amazonaws.com",
        "minio.default.svc",
        "127.0.0.1",
    ],
)
def test_an_endpoint_of_somebody_else(host: str) -> None:
    assert not is_aws_endpoint(f"https://{host}")
