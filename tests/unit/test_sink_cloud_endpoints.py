"""Which endpoints belong to the object store of a cloud, and may get the operator's own
credentials."""

from __future__ import annotations

import pytest

from gpuid_operator.sinks.cloud_endpoints import is_azure_endpoint, is_google_endpoint


@pytest.mark.parametrize(
    "host",
    [
        "storage.googleapis.com",
        "Storage.googleapis.com:443",
        "storage.us-central1.rep.googleapis.com",
        "storage-fleet.p.googleapis.com",
        "private.googleapis.com",
        "restricted.googleapis.com",
    ],
)
def test_an_endpoint_of_google(host: str) -> None:
    assert is_google_endpoint(f"https://{host}")
    assert is_google_endpoint(f"https://{host}/")
    assert not is_google_endpoint(f"http://{host}"), "a token is never sent in clear text"
    assert not is_azure_endpoint(f"https://{host}")


@pytest.mark.parametrize(
    "host",
    [
        "fleetaccount.blob.core.windows.net",
        "fleetaccount-secondary.blob.core.windows.net:443",
        "fleetaccount.privatelink.blob.core.windows.net",
        "fleetaccount.z01.blob.storage.azure.net",
        "fleetaccount.blob.core.usgovcloudapi.net",
        "fleetaccount.blob.core.chinacloudapi.cn",
    ],
)
def test_an_endpoint_of_azure(host: str) -> None:
    assert is_azure_endpoint(f"https://{host}")
    assert is_azure_endpoint(f"https://{host}/")
    assert not is_azure_endpoint(f"http://{host}"), "a token is never sent in clear text"
    assert not is_google_endpoint(f"https://{host}")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "storage.googleapis.com.evil.example",
        "evil.example\\.storage.googleapis.com",
        "evil.example/.storage.googleapis.com",
        "storage.googleapis.com:8443",
        "storage.evilgoogleapis.com",
        "evil.storage.googleapis.com",
        "evil.run.app",
        "storage.x.y.rep.googleapis.com",
        "blob.core.windows.net",
        "a.b.blob.core.windows.net",
        "evil.example\\.blob.core.windows.net",
        "fleetaccount.blob.core.windows.net.evil.example",
        "fleetaccount.file.core.windows.net",
        "fleetaccount.blob.core.windows.net:10000",
        "fleetaccount.cloudapp.azure.com",
        "127.0.0.1",
    ],
)
def test_an_endpoint_of_somebody_else(host: str) -> None:
    assert not is_google_endpoint(f"https://{host}")
    assert not is_azure_endpoint(f"https://{host}")
