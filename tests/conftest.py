"""What all tests share; and with CI in the environment, a test that is skipped has failed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpuid_operator.localcluster import ports
from tests.support.kafka_server import kafka
from tests.support.object_servers import azure, gcs, s3
from tests.support.servers import postgres

__all__ = ["azure", "gcs", "kafka", "postgres", "s3"]  # fixtures

ALLOWED_SKIPS = ("the real output ", "this machine has no IPv6")
"""Beginnings of the reasons for which CI, too, lets a test be skipped: data that do not belong to
the repository, and what no package can give a machine."""


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker of pytest-xdist ports of its own: two that look for free ones at the same
    time find the same."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        number = int(worker["workerid"].removeprefix("gw"))
        ports.candidates = ports.candidates[number :: worker["workercount"]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _require(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _require(report)
    return report


def _require(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure where nothing may be skipped."""
    if not (os.environ.get("CI") and report.skipped) or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI requires it: {reason}"


@dataclass(frozen=True)
class Certificates:
    """A certificate authority made for this run, a server's certificate for `localhost`, and that
    of a client."""

    authority: str
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(
        *["req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"],
        *["-subj", "/CN=Test authority", "-addext", "keyUsage=critical,keyCertSign"],
    )
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    for name in ("server", "client"):
        request = f"{name}.csr"
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", request, "-subj", f"/CN={name}")
        openssl(
            *["x509", "-req", "-in", request, "-CA", "ca.pem", "-CAkey", "ca.key"],
            *["-CAcreateserial", "-days", "2", "-extfile", "names", "-out", f"{name}.pem"],
        )
    return Certificates(
        authority=(folder / "ca.pem").read_text(),
        certificate=folder / "server.pem",
        key=folder / "server.key",
        client_certificate=folder / "client.pem",
        client_key=folder / "client.key",
    )
