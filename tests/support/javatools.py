"""Servers for tests that come as Java archives: fetched once into the user's cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, NoReturn

import pytest

from gpuid_operator.localcluster import toolchain

KAFKA: Final = "4.3.1"
_ARTIFACTS: Final = {
    "org.apache.kafka:kafka_2.13": KAFKA,
    "org.apache.logging.log4j:log4j-slf4j-impl": "2.25.4",
}
_PACKAGES: Final = "apt-get install openjdk-17-jre-headless maven"


def kafka() -> str:
    """The class path of Kafka, fetched now if need be (20 s, 44 MB).

    Where it cannot be had the test is skipped, and fails where CI is set.
    """
    if shutil.which("java") is None:
        _missing(f"Java is not installed: {_PACKAGES}")
    folder = toolchain.cache_directory() / "tools"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"kafka-{KAFKA}"
    with (folder / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                _fetch(Path(scratch))
                (Path(scratch) / "jars").rename(target)
    return f"{target}/*"


def _fetch(folder: Path) -> None:
    if shutil.which("mvn") is None:
        _missing(f"Maven is not installed: {_PACKAGES}")
    dependencies = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId>"
        "<version>{}</version></dependency>".format(*name.split(":"), version)
        for name, version in _ARTIFACTS.items()
    )
    (folder / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>tests</groupId>"
        "<artifactId>kafka</artifactId><version>1</version>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )
    done = subprocess.run(
        [
            *["mvn", "--batch-mode", "--quiet", "dependency:copy-dependencies"],
            *[f"-Dmaven.repo.local={folder / 'repository'}", f"-DoutputDirectory={folder}/jars"],
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        _missing(f"failed to fetch Kafka {KAFKA} with Maven: {done.stdout[-1000:]}")


def _missing(why: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
