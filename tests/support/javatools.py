"""Servers for tests that come as Java archives: fetched once into the user's cache."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from gpuid_operator.localcluster import toolchain
from gpuid_operator.localcluster.errors import BuildError

PROGRAM: Final = "kafka"
_VERSION: Final = "4.3.1"
_ARTIFACTS: Final = {
    "org.apache.kafka:kafka_2.13": _VERSION,
    "org.apache.logging.log4j:log4j-slf4j-impl": "2.25.4",
}
_PACKAGES: Final = "apt-get install openjdk-17-jre-headless maven"


def kafka_classpath() -> str:
    """The class path of Kafka, fetched now if need be (20 s, 44 MB). Raises BuildError."""
    if shutil.which("java") is None:
        raise BuildError(f"Java is not installed: {_PACKAGES}")
    folder = toolchain.cache_directory() / "tools"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"kafka-{_VERSION}"
    with (folder / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                _fetch(Path(scratch))
                (Path(scratch) / "jars").rename(target)
    return f"{target}/*"


def _fetch(folder: Path) -> None:
    if shutil.which("mvn") is None:
        raise BuildError(f"Maven is not installed: {_PACKAGES}")
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
        raise BuildError(f"failed to fetch Kafka {_VERSION} with Maven: {done.stdout[-1000:]}")
