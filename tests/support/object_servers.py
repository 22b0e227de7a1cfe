"""Object stores that sinks deliver to: fixtures `s3`, `gcs` and `azure`.

A server that is missing on this machine skips its tests, and fails them where CI is set.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

import pytest

from tests.support.gcs_front import GCSFront
from tests.support.google_keys import new_key, service_account_key
from tests.support.gotools import azurite, go_tool
from tests.support.servers import DEADLINE, free_port, wait_for


class ObjectServer(Protocol):
    """What tests ask of a server with buckets."""

    type: ClassVar[str]
    """The type of its sink."""

    @property
    def url(self) -> str: ...

    @property
    def credentials(self) -> dict[str, str]:
        """The Secret of a sink."""

    def create(self, bucket: str) -> None: ...

    def objects(self, bucket: str) -> dict[str, bytes]: ...

    def settings(self, bucket: str) -> dict[str, Any]:
        """What a sink needs to know beside `endpoint` and `credentialsSecretRef`."""


@dataclass(frozen=True)
class _Folders:
    """A server that keeps a bucket in a folder."""

    url: str
    folder: Path

    def create(self, bucket: str) -> None:
        (self.folder / bucket).mkdir()

    def objects(self, bucket: str) -> dict[str, bytes]:
        root = self.folder / bucket
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }


class S3(_Folders):
    """An S3 server of this run, which checks signatures."""

    type: ClassVar = "s3"
    credentials: ClassVar = {
        "AWS_ACCESS_KEY_ID": "AKIDTEST",
        "AWS_SECRET_ACCESS_KEY": "the-key-nobody-may-see",
    }

    def settings(self, bucket: str) -> dict[str, Any]:
        return {"bucket": bucket, "region": "us-east-1"}


@dataclass(frozen=True)
class GCS(_Folders):
    """A server with the JSON API of Cloud Storage, which checks tokens."""

    type: ClassVar = "gcs"
    credentials: dict[str, str]

    def settings(self, bucket: str) -> dict[str, Any]:
        return {"bucket": bucket}


@dataclass(frozen=True)
class Azure:
    """A Blob service of this run, which checks signatures."""

    type: ClassVar = "azure"
    url: str
    trust: ssl.SSLContext | None = None
    account: str = "fleetaccount"
    key: str = base64.b64encode(b"the-key-nobody-may-see").decode()

    @property
    def credentials(self) -> dict[str, str]:
        return {"AZURE_STORAGE_ACCOUNT_KEY": self.key}

    def settings(self, bucket: str) -> dict[str, Any]:
        return {"account": self.account, "container": bucket}

    def create(self, bucket: str) -> None:
        self._request("PUT", bucket, restype="container")

    def objects(self, bucket: str) -> dict[str, bytes]:
        listed = self._request("GET", bucket, restype="container", comp="list")
        names = [name.text or "" for name in ElementTree.fromstring(listed).iter("Name")]
        return {name: self._request("GET", f"{bucket}/{quote(name)}") for name in sorted(names)}

    def sas(self, permissions: str) -> str:
        """A token for the whole account, from a day ago for another day."""
        day, form = timedelta(days=1), "%Y-%m-%dT%H:%M:%SZ"
        now = datetime.now(UTC)
        fields = {
            "sp": permissions,
            "ss": "b",
            "srt": "sco",
            "st": f"{now - day:{form}}",
            "se": f"{now + day:{form}}",
            "sip": "",
            "spr": "https,http",
            "sv": "2021-12-02",
            "ses": "",
        }
        text = "".join(f"{value}\n" for value in (self.account, *fields.values()))
        digest = hmac.digest(base64.b64decode(self.key), text.encode(), "sha256")
        fields["sig"] = base64.b64encode(digest).decode()
        return urlencode({name: value for name, value in fields.items() if value})

    def _request(self, method: str, path: str, **query: str) -> bytes:
        url = f"{self.url}/{self.account}/{path}?{urlencode(query)}&{self.sas('rwdlac')}"
        request = urllib.request.Request(url, method=method)
        with urllib.request.urlopen(request, context=self.trust) as response:
            body: bytes = response.read()
        return body


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with run_s3(tmp_path_factory.mktemp("buckets")) as server:
        yield server


@contextmanager
def run_s3(folder: Path) -> Iterator[S3]:
    """A server with its buckets in this folder."""
    port = free_port()
    server = S3(f"http://127.0.0.1:{port}", folder)
    command = [str(go_tool("versitygw")), "--port", f"127.0.0.1:{port}", "--quiet"]
    keys = {
        "ROOT_ACCESS_KEY": server.credentials["AWS_ACCESS_KEY_ID"],
        "ROOT_SECRET_KEY": server.credentials["AWS_SECRET_ACCESS_KEY"],
    }
    with _running("versitygw", [*command, "posix", str(folder)], server.url, keys):
        yield server


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GCS]:
    """A stand-in: Google has no server that can be had. fake-gcs-server has the JSON API with its
    preconditions, but takes every token, so a front checks them as Google does."""
    folder, port = tmp_path_factory.mktemp("gcs"), free_port()
    key = new_key()
    account = service_account_key(key)
    command = [str(go_tool("fake-gcs-server")), "-scheme", "http", "-host", "127.0.0.1"]
    command += ["-port", str(port), "-backend", "filesystem", "-filesystem-root", str(folder)]
    upstream = f"http://127.0.0.1:{port}"
    with (
        _running("fake-gcs-server", command, upstream),
        GCSFront(upstream, key.public_key(), account) as front,
    ):
        yield GCS(front.url, folder, {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account)})


@pytest.fixture(scope="session")
def azure() -> Iterator[Azure]:
    with run_azure() as server:
        yield server


@contextmanager
def run_azure(certificates: Any = None) -> Iterator[Azure]:
    """A Blob service. With a certificate, it speaks TLS, and also takes bearer tokens, whose
    signature it does not check."""
    port = free_port()
    command = [
        *azurite(),
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
        str(port),
        "--inMemoryPersistence",
    ]
    command += ["--disableTelemetry", "--silent"]
    if certificates is None:
        server = Azure(f"http://127.0.0.1:{port}")
    else:
        trust = ssl.create_default_context(cadata=certificates.authority)
        server = Azure(f"https://localhost:{port}", trust=trust)
        command += ["--cert", str(certificates.certificate), "--key", str(certificates.key)]
        command += ["--oauth", "basic"]
    accounts = {"AZURITE_ACCOUNTS": f"{server.account}:{server.key}"}
    with _running("azurite", command, server.url, accounts, trust=server.trust):
        yield server


@contextmanager
def _running(
    what: str,
    command: list[str],
    url: str,
    environ: Mapping[str, str] | None = None,
    *,
    trust: ssl.SSLContext | None = None,
) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environ or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        try:
            urllib.request.urlopen(url, timeout=1, context=trust).close()
        except urllib.error.HTTPError as error:
            error.close()
            return True
        except OSError:
            return False
        return True

    try:
        wait_for(what, answers, process)
        yield
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        process.wait(DEADLINE)
