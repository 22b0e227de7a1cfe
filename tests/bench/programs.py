"""The programs that are measured, and how they run: as in a pod."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gpuid_operator.localcluster.ports import free_ports
from tests.bench import usage
from tests.bench.errors import BenchError
from tests.bench.records import RecordCounter

_OF_DEBIAN: Final = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
"""The Python that the image has, if this machine has it in the version of this process."""


def _python() -> tuple[str, ...]:
    if not os.access(_OF_DEBIAN, os.X_OK):
        return (sys.executable,)
    # It has none of the packages of this process; the working directory has the program.
    return ("/usr/bin/env", f"PYTHONPATH={sysconfig.get_path('purelib')}", _OF_DEBIAN)


PYTHON: Final = _python()
"""The Python of the operator and of the floors: that of Debian, as in the image, where there is
one. Builds of Python differ in speed."""


def python_version() -> str:
    """The version of PYTHON, and whose it is."""
    command = [*PYTHON, "-c", "import platform; print(platform.python_version())"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return f"{version} of Debian" if _OF_DEBIAN in PYTHON else version


LIMITS: Final = {"WORKERS": "16", "QPS": "500", "BURST": "1000"}
"""The same limits for every program, where nvidia-smi takes no time."""


@dataclass(frozen=True)
class Program:
    """A program that reads the GPUs of all nodes and logs a record for each."""

    name: str
    command: tuple[str, ...]
    inventories: bool
    """Whether it writes GPUInventories; each program writes the labels of Nodes."""


OURS: Final = Program("gpuid-operator", (*PYTHON, "-m", "gpuid_operator", "run"), inventories=True)


def peer(binary: str) -> Program:
    """gpuid, as a binary that somebody built. Raises ArgumentTypeError for another file."""
    path = Path(binary).resolve()
    if not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{binary} is no program: build gpuid, and give its path")
    return Program("gpuid", (str(path),), inventories=False)


@dataclass(frozen=True)
class Access:
    """How a program reaches the API server: the files and variables of a service account."""

    folder: Path
    """It has `token`, `ca.crt`, `namespace`, and a kubeconfig that says the same."""
    host: str
    port: int


class Running:
    """A program that runs. Use it as a context; its end ends the program."""

    def __init__(
        self, program: Program, access: Access, *, log: Path, environment: Mapping[str, str]
    ) -> None:
        self._name = program.name
        self.log = log
        (self._port,) = free_ports(1)
        command, variables = as_in_a_pod(program.command, access)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env={
                    "PATH": os.environ["PATH"],
                    "CLUSTER_NAME": "bench",
                    "SERVER_PORT": str(self._port),
                    **environment,
                    **variables,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._records = RecordCounter(log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def records(self) -> int:
        """The records in its log so far."""
        return self._records.count()

    def check(self) -> None:
        """Raise BenchError if the program has ended."""
        code = self._process.poll()
        if code is not None:
            end = self.log.read_text(errors="replace")[-1500:]
            raise BenchError(f"{self._name} ended with exit code {code}:\n{end}")

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of its own server; status 0 where nobody answers."""
        try:
            url = f"http://127.0.0.1:{self._port}{path}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metric(self, name: str) -> float:
        """The sum of the series of a metric of gpuid-operator; 0 without any."""
        _, text = self.get("/metrics")
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return sum(float(value) for key, _, value in lines if key.partition("{")[0] == name)

    @property
    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        return usage.cpu_seconds(self._process.pid)

    @property
    def peak(self) -> float:
        """The most memory that it had so far, in MB."""
        return usage.peak_resident(self._process.pid)


def as_in_a_pod(command: Sequence[str], access: Access) -> tuple[list[str], dict[str, str]]:
    """The command and environment by which a program finds the cluster as a pod would.

    Reading a kubeconfig costs each program what no pod pays. A mount namespace of its own shows it
    the service account's files; without root, it gets a kubeconfig all the same.
    """
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return list(command), {"KUBECONFIG": str(access.folder / "kubeconfig")}
    mount = (
        "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount"
        f" && cp {access.folder}/* /run/secrets/kubernetes.io/serviceaccount/"
        ' && exec "$@"'
    )
    wrapped = ["unshare", "--mount", "sh", "-c", mount, "sh", *command]
    return wrapped, {
        "KUBERNETES_SERVICE_HOST": access.host,
        "KUBERNETES_SERVICE_PORT": str(access.port),
    }
