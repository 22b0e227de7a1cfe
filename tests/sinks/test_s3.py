"""The s3 sink against a real S3 server that checks signatures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from gpuid_operator.api.sinks import S3Sink, Sink
from gpuid_operator.sinks.base import (
    AddressNotAllowed,
    Refused,
    SecretMissing,
    SinkError,
    Unavailable,
)
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.sinks.registry import open_sink
from gpuid_operator.sinks.s3_objects import objects_of

CREDENTIALS = {"credentialsSecretRef": {"name": "lake"}}


@pytest.fixture
def secrets(s3: Any, make_secrets: Any) -> Any:
    return make_secrets(AWS_ACCESS_KEY_ID=s3.access_key, AWS_SECRET_ACCESS_KEY=s3.secret_key)


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    name = request.node.name.replace("_", "-").split("[")[0][:60]
    (s3.folder / name).mkdir()
    return str(name)


@pytest.fixture
async def sink() -> AsyncIterator[Callable[..., Any]]:
    """Opens a sink at a URL, or at AWS."""
    client = HTTPClient()

    def opened(url: str | None, bucket: str, secrets: Any, **fields: Any) -> Any:
        at = {} if url is None else {"endpoint": url, "insecure": True}
        return open_sink(
            Sink.model_validate(
                {"name": "lake", "s3": {"bucket": bucket, **at, **CREDENTIALS, **fields}}
            ),
            secrets=secrets,
            context=SinkContext(http=client, write_records=lambda _records: None),
        )

    yield opened
    await client.close()


async def test_csv_has_gpuids_columns(
    s3: Any, bucket: str, secrets: Any, record: Any, sink: Any
) -> None:
    awkward = record(node=' a,"b"', gpu="na", uuid=None)
    lake = sink(s3.url, bucket, secrets, prefix="/fleet/gpus/")
    await lake.send([record(), awkward])
    ((key, content),) = s3.objects(bucket).items()
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
    s3: Any, bucket: str, secrets: Any, record: Any, sink: Any
) -> None:
    batch = [record(), record()]
    lake = sink(s3.url, bucket, secrets, format="jsonl", partition="%Y/%j")
    await lake.send(batch)
    await lake.send(batch)
    await sink(s3.url, bucket, secrets, format="jsonl", partition="%Y/%j").send(batch)
    ((key, content),) = s3.objects(bucket).items()
    assert key.startswith("2026/158/20260607-103045.000-")
    assert key.endswith(".jsonl")
    assert [json.loads(line) for line in content.splitlines()] == [r.to_json() for r in batch]


async def test_a_batch_over_two_hours_gives_two_objects(
    s3: Any, bucket: str, secrets: Any, record: Any, sink: Any
) -> None:
    later = datetime(2026, 6, 7, 11, 0, tzinfo=UTC)
    await sink(s3.url, bucket, secrets).send([record(), record(time=later), record()])
    objects = s3.objects(bucket)
    assert [key.split("/")[3] for key in objects] == ["hour=10", "hour=11"]
    assert [content.count(b"\n") for content in objects.values()] == [2, 1]


async def test_a_wrong_key_is_refused_and_a_new_one_works_without_restart(
    s3: Any, bucket: str, secrets: Any, record: Any, sink: Any
) -> None:
    lake = sink(s3.url, bucket, secrets)
    secrets.values["AWS_SECRET_ACCESS_KEY"] = "hidden-and-wrong"
    with pytest.raises(Refused, match="403 Forbidden SignatureDoesNotMatch") as caught:
        await lake.send([record()])
    assert "hidden" not in caught.value.message
    assert secrets.invalidated == 1
    secrets.values["AWS_SECRET_ACCESS_KEY"] = s3.secret_key
    await lake.send([record()])
    assert len(s3.objects(bucket)) == 1


async def test_a_session_token_of_the_environment_is_not_mixed_in(
    s3: Any, bucket: str, secrets: Any, record: Any, sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-operator")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-operator")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    await sink(s3.url, bucket, secrets).send([record()])
    assert len(s3.objects(bucket)) == 1


async def test_no_bucket_is_permanent(s3: Any, secrets: Any, record: Any, sink: Any) -> None:
    with pytest.raises(Refused, match="404 Not Found NoSuchBucket") as caught:
        await sink(s3.url, "no-such-bucket", secrets).send([record()])
    assert type(caught.value) is Refused


async def test_a_key_that_s3_cannot_have_is_permanent(
    s3: Any, bucket: str, secrets: Any, record: Any, sink: Any
) -> None:
    with pytest.raises(Refused, match=r"cannot store an object as .*: change the prefix"):
        await sink(s3.url, bucket, secrets, prefix="a/../b").send([record()])


async def test_a_secret_without_a_key_says_which(
    s3: Any, record: Any, sink: Any, make_secrets: Any
) -> None:
    with pytest.raises(SecretMissing, match="Secret lake has no key AWS_SECRET_ACCESS_KEY"):
        await sink(s3.url, "b", make_secrets(AWS_ACCESS_KEY_ID="a")).send([record()])


@pytest.mark.parametrize(
    ("status", "error"),
    [(503, Unavailable), (500, Unavailable), (429, Unavailable), (400, Refused)],
)
async def test_what_a_status_means(
    status: int, error: type[SinkError], record: Any, sink: Any, make_secrets: Any
) -> None:
    async def answer(_request: web.Request) -> web.Response:
        body = "<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>"
        return web.Response(status=status, text=body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    secrets = make_secrets(AWS_ACCESS_KEY_ID="AKID", AWS_SECRET_ACCESS_KEY="hidden")
    port = runner.addresses[0][1]
    try:
        with pytest.raises(SinkError, match="SlowDown: Reduce your rate") as caught:
            await sink(f"http://127.0.0.1:{port}", "b", secrets).send([record()])
    finally:
        await runner.cleanup()
    assert type(caught.value) is error
    with pytest.raises(Unavailable, match="failed to connect"):
        await sink(f"http://127.0.0.1:{port}", "b", secrets).send([record()])


async def test_a_link_local_endpoint_is_refused(record: Any, sink: Any, make_secrets: Any) -> None:
    secrets = make_secrets(AWS_ACCESS_KEY_ID="AKID", AWS_SECRET_ACCESS_KEY="hidden")
    with pytest.raises(AddressNotAllowed):
        await sink("http://169.254.169.254", "b", secrets).send([record()])
    with pytest.raises(Refused, match="insecure: true"):
        await sink("http://127.0.0.1:1", "b", secrets, insecure=False).send([record()])


async def test_the_host_of_aws_is_that_of_the_region(
    record: Any, sink: Any, make_secrets: Any
) -> None:
    secrets = make_secrets()
    with pytest.raises(SecretMissing):
        await sink(None, "b", secrets, region="eu-west-1").send([record()])
    assert secrets.hosts == {"s3.eu-west-1.amazonaws.com"}


def test_hours_of_a_day_are_far_fewer_than_records(record: Any) -> None:
    start = datetime(2026, 6, 7, tzinfo=UTC)
    records = [record(time=start + timedelta(seconds=n)) for n in range(8000)]
    objects = objects_of(records, S3Sink(bucket="b"))
    assert len(objects) == 3
    assert len({item.key for item in objects}) == 3
