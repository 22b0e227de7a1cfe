"""The http sink's format `otlp` against a real collector, configured as docs/sinks.md says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from gpuid_operator.sinks.base import RecordsRefused, Refused, Unavailable
from tests.support.http_sink import http_sink
from tests.support.otlp_collector import TOKEN, Collector, documented, run_collector
from tests.support.secret_source import Secrets

TOKEN_REF = {"tokenSecretRef": {"name": "telemetry", "key": "token"}}
CA_REF = {"caSecretRef": {"name": "telemetry", "key": "ca.crt"}}
Open = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with run_collector(tmp_path_factory.mktemp("collector")) as collector:
        yield collector


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, certificates: Any) -> Iterator[Collector]:
    """The collector of the documentation, with certificates and a port of this run."""
    tls = {"cert_file": str(certificates.certificate), "key_file": str(certificates.key)}
    override = {
        "receivers": {"otlp": {"protocols": {"http": {"tls": tls, "max_request_body_size": 4096}}}},
        "service": {"pipelines": {"logs": {"exporters": ["lines", "debug"]}}},
    }
    with run_collector(tmp_path_factory.mktemp("secure"), documented(), override) as collector:
        yield collector


@pytest.fixture
def secrets(certificates: Any) -> Secrets:
    return Secrets(**{"token": TOKEN, "ca.crt": certificates.authority})


@pytest.fixture
def open_secure(secure: Collector, secrets: Secrets) -> Open:
    def open_sink(path: str = "/v1/logs") -> AbstractAsyncContextManager[Any]:
        url = f"https://localhost:{secure.port}{path}"
        return http_sink(url, secrets, format="otlp", insecure=False, **TOKEN_REF, **CA_REF)

    return open_sink


async def test_records_arrive_complete_and_in_order(collector: Collector, record: Any) -> None:
    before = len(collector.records())
    batch = [
        record(event="GPUMoved", **{"from": "00000000:29:00.0", "to": "00000000:2A:00.0"}),
        *(record(node=node) for node in ("gpu-1", "gpu-2", "gpu-1", "gpu-2")),
        record(event="NodeDeparted", gpu="na", uuid=None, pci=None, product=None, source=""),
        record(event="Sighted", chassis="unknown", gpu='17,"61\u2028é', id="uid.9.1.0"),
    ]
    async with http_sink(collector.sink()["http"]["url"], format="otlp") as sink:
        await sink.send(batch)
        await sink.send(batch[:1])
    *came, again = collector.records()[before:]
    assert sorted(came, key=lambda one: str(one["node"])) == [
        one.to_json() for one in sorted(batch, key=lambda one: one.node)
    ]
    assert again == batch[0].to_json()


async def test_the_documented_collector_shows_a_record(
    secure: Collector, open_secure: Open, record: Any
) -> None:
    removed = record(event="GPURemoved", uuid="GPU-shown")
    async with open_secure() as sink:
        await sink.send([removed])
    assert secure.records()[-1] == removed.to_json()
    shown = secure.log.read_text()
    for part in (
        *("service.name: Str(gpuid-operator)", "k8s.node.name: Str(gpu-1)"),
        *("Timestamp: 2026-06-07 10:30:45 +0000 UTC", "SeverityNumber: Warn(13)"),
        *("EventName: com.github.gpuid.GPURemoved", "gpuid.uuid: Str(GPU-shown)"),
        "Body: Str(GPURemoved on gpu-1: NVIDIA GB200 serial 1761025346025 GPU-shown",
    ):
        assert part in shown


async def test_a_wrong_token_and_a_new_one(
    secrets: Secrets, open_secure: Open, record: Any
) -> None:
    secrets.values["token"] = wrong = "the-wrong-token-nobody-may-see"
    async with open_secure() as sink:
        with pytest.raises(Refused, match=": 401 Unauthorized: ") as caught:
            await sink.send([record()])
        assert wrong not in caught.value.message
        assert secrets.invalidated == 1
        secrets.values["token"] = TOKEN
        await sink.send([record()])


async def test_a_wrong_path(open_secure: Open, record: Any) -> None:
    async with open_secure("/v1/log") as sink:
        with pytest.raises(Refused, match=": 404 Not Found"):
            await sink.send([record()])


async def test_a_batch_that_is_too_large_for_the_collector(
    secure: Collector, open_secure: Open, record: Any
) -> None:
    before = secure.records()
    async with open_secure() as sink:
        with pytest.raises(RecordsRefused, match="request body too large"):
            await sink.send([record() for _ in range(9)])
        assert secure.records() == before
        await sink.send([record()])


async def test_a_collector_that_cannot_export_is_an_outage(tmp_path: Path, record: Any) -> None:
    with run_collector(tmp_path, {}, {"exporters": {"lines": {"path": "/dev/full"}}}) as collector:
        async with http_sink(collector.sink()["http"]["url"], format="otlp") as sink:
            with pytest.raises(Unavailable, match=r": 503 .*no space left on device"):
                await sink.send([record()])


async def test_a_collector_that_is_not_there_yet(tmp_path: Path, record: Any) -> None:
    with run_collector(tmp_path) as collector:
        url = collector.sink()["http"]["url"]
    async with http_sink(url, format="otlp") as sink:
        with pytest.raises(Unavailable, match="failed to connect"):
            await sink.send([record()])
