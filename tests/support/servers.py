"""Real servers that sinks deliver to: fixtures `postgres` and `s3`.

A server that is missing on this machine skips its tests, and fails them where CI is set.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.gotools import go_tool

DEADLINE = 60.0


def _missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(what: str, ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + DEADLINE
    while not ready():
        assert process.poll() is None, f"{what} ended with {process.returncode}"
        assert time.monotonic() < end, f"{what} did not come up"
        time.sleep(0.05)


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server of this run; `password` is the superuser's."""

    port: int
    user: str = "postgres"
    password: str = "the-password-nobody-may-see"


@pytest.fixture(scope="session")
def postgres(certificates: Any) -> Iterator[Postgres]:
    with run_postgres(certificate=certificates.certificate, key=certificates.key) as server:
        yield server


@contextmanager
def run_postgres(*, certificate: Path | None = None, key: Path | None = None) -> Iterator[Postgres]:
    """A server that is gone afterwards; it speaks TLS where it gets a certificate."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    binary = str(found[-1]) if found else shutil.which("postgres")
    if binary is None:
        _missing("PostgreSQL is not installed: apt-get install postgresql")
    server = Postgres(port=free_port())
    # Not pytest's own folder: that is root's alone, and postgres refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="gpuid-postgres-"))
    owner = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    password_file = folder / "password"
    password_file.write_text(server.password)
    for source, name in ((certificate, "tls.crt"), (key, "tls.key")):
        if source is not None:
            shutil.copyfile(source, folder / name)
            (folder / name).chmod(0o600)
    for path in (folder, *folder.iterdir()):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    identity: dict[str, Any] = {"cwd": folder}
    if os.getuid() == 0:
        identity |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    subprocess.run(
        [
            *[str(Path(str(binary)).with_name("initdb")), "--no-sync", "-D", "data"],
            *["-U", server.user, "-A", "scram-sha-256", "--pwfile", str(password_file)],
        ],
        check=True,
        capture_output=True,
        **identity,
    )
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(server.port),
        "unix_socket_directories": "",
        "fsync": "off",
        "ssl": "on" if certificate else "off",
        "ssl_cert_file": str(folder / "tls.crt"),
        "ssl_key_file": str(folder / "tls.key"),
    }
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(binary), "-D", "data", *options], stdout=log, stderr=log, **identity
        )

    def accepts() -> bool:
        probe = [str(Path(str(binary)).with_name("pg_isready")), "-h", "127.0.0.1"]
        return not subprocess.run([*probe, "-p", str(server.port)], capture_output=True).returncode

    try:
        wait_for("PostgreSQL", accepts, process)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE)
        shutil.rmtree(folder)


@dataclass(frozen=True)
class S3:
    """An S3 server of this run, which checks signatures; `folder` has one folder per bucket."""

    url: str
    folder: Path
    access_key: str = "AKIDTEST"
    secret_key: str = "the-key-nobody-may-see"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def objects(self, bucket: str) -> dict[str, bytes]:
        root = self.folder / bucket
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with run_s3(tmp_path_factory.mktemp("buckets")) as server:
        yield server


@contextmanager
def run_s3(folder: Path) -> Iterator[S3]:
    """A server with its buckets in this folder."""
    binary = go_tool("versitygw")
    port = free_port()
    server = S3(url=f"http://127.0.0.1:{port}", folder=folder)
    process = subprocess.Popen(
        [str(binary), "--port", f"127.0.0.1:{port}", "--quiet", "posix", str(server.folder)],
        env={
            **os.environ,
            "ROOT_ACCESS_KEY": server.access_key,
            "ROOT_SECRET_KEY": server.secret_key,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        try:
            urllib.request.urlopen(server.url, timeout=1).close()
        except urllib.error.HTTPError as error:
            error.close()
            return True
        except OSError:
            return False
        return True

    try:
        wait_for("versitygw", answers, process)
        yield server
    finally:
        process.terminate()
        process.wait(DEADLINE)
