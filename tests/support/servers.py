"""Real servers that sinks deliver to: the fixture `postgres`, and what `object_servers` needs.

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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
    """Wait until a server of this process is ready."""
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
def run_postgres(
    *,
    certificate: Path | None = None,
    key: Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Postgres]:
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
        **(settings or {}),
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
