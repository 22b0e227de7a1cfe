"""The operator as a process of its own, and what it left in the cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from gpuid_operator.localcluster.ports import free_ports
from tests.support import audit

T = TypeVar("T")

STARTS_WITHIN = 90.0
"""Seconds for what waits for a process that has just begun: on a busy machine the start alone takes
half a minute."""

INVENTORIES = "/apis/gpuid.github.com/v1alpha1/gpuinventories"
POLICIES = "/apis/gpuid.github.com/v1alpha1/gpuinventorypolicies"
RECORD = "gpu serial number reading"


def eventually(check: Callable[[], T], *, within: float = 30.0) -> T:
    """What `check` returns once none of its assertions fails any more.

    A field or an item that is not there (KeyError, IndexError) is one that is not there yet.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            return check()
        except (AssertionError, LookupError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


class Operator:
    """`gpuid-operator run` on a cluster, with an environment of its own.

    As a context it runs at its beginning and is ended by SIGTERM at its end. What it printed is
    checked then: nothing on stderr, a JSON object per line of stdout, no traceback.
    """

    def __init__(
        self,
        cluster: LocalCluster,
        *,
        kubeconfig: Path | None = None,
        ready: bool = True,
        periods: Mapping[str, float] | None = None,
        **variables: str,
    ) -> None:
        """`variables` are those of its environment; `ready`: the context begins when it is.

        `periods` shortens what takes minutes by design: seconds by field of `Timings`.
        """
        folder = cluster.directory / "operators"
        folder.mkdir(exist_ok=True)
        (self.port,) = free_ports(1)
        self._stdout = folder / f"{self.port}.log"
        self._stderr = folder / f"{self.port}.err"
        self._environment = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(kubeconfig or cluster.kubeconfig),
            "SERVER_PORT": str(self.port),
            "QPS": "1000",
            "BURST": "1000",
            **variables,
        }
        self._ready = ready
        self._command = [sys.executable, "-m", "gpuid_operator", "run"]
        if periods:
            self._command[1:] = ["-c", _shortened(periods)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        try:
            if self._ready:
                self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            code = self.terminate()
            assert code == 0 or error is not None, f"exit code {code}"
        if error is None:
            self.check_output()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> None:
        """Start it, again under the same environment where it was ended."""
        with self._stdout.open("ab") as out, self._stderr.open("ab") as err:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def restart(self) -> None:
        """Start it again and wait until it is ready."""
        self.start()
        self.wait_ready()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, *, within: float = 30.0) -> int:
        """Ask it to end; its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of its own server; status 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def wait_ready(self) -> None:
        def ready() -> None:
            ended = f"ended with {self.process.poll()}:\n"
            said = self._stdout.read_text()[-2000:] + self._stderr.read_text()[-2000:]
            assert self.process.poll() is None, ended + said
            status, words = self.get("/readyz")
            assert status == 200, words

        eventually(ready, within=STARTS_WITHIN)

    def lines(self) -> list[dict[str, Any]]:
        """The lines of its log so far, all of them whole."""
        text = self._stdout.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def records(self) -> list[dict[str, Any]]:
        """What the sink `stdout` delivered."""
        return [line for line in self.lines() if line["msg"] == RECORD]

    def check_output(self) -> None:
        assert self._stderr.read_text() == ""
        for line in self.lines():
            assert {"time", "level", "source", "msg", "service"} <= line.keys(), line
            # Kopf gives a traceback for each watch that ends.
            assert "stack" not in line or "kopf" in line.get("logger", ""), line


def _shortened(periods: Mapping[str, float]) -> str:
    """A program that runs the operator with other timings."""
    fields = ", ".join(f"{name}=timedelta(seconds={value})" for name, value in periods.items())
    return (
        "import sys\n"
        "from datetime import timedelta\n"
        "from gpuid_operator.engine.core.options import Timings\n"
        "from gpuid_operator.operator.app import main\n"
        f"sys.exit(main(timings=Timings({fields})))\n"
    )


def inventory(cluster: LocalCluster, node: str) -> dict[str, Any]:
    """The node's GPUInventory; none is an AssertionError."""
    found = cluster.client.send(Request("GET", f"{INVENTORIES}/{node}", tolerate=(404,)))
    assert found is not None, f"no inventory of {node}"
    return dict(found)


def status(cluster: LocalCluster, node: str) -> dict[str, Any]:
    return dict(inventory(cluster, node).get("status", {}))


def condition(cluster: LocalCluster, node: str, kind: str = "Ready") -> tuple[str, str]:
    """Status and reason of a condition."""
    for one in status(cluster, node).get("conditions", ()):
        if one["type"] == kind:
            return one["status"], one["reason"]
    raise AssertionError(f"{node} has no condition {kind}")


def condition_types(cluster: LocalCluster, node: str) -> set[str]:
    return {one["type"] for one in status(cluster, node).get("conditions", ())}


def read_well(cluster: LocalCluster, node: str) -> None:
    """The last read of the node was good, and what it gave is delivered."""
    assert condition(cluster, node) == ("True", "ReadOK")
    is_delivered(cluster, node)


def is_delivered(cluster: LocalCluster, node: str) -> None:
    """What the status has is delivered, and noted: no write follows a read."""
    assert condition(cluster, node, "Delivered")[0] == "True"


def is_not_ready(cluster: LocalCluster, node: str, reason: str) -> None:
    assert condition(cluster, node) == ("False", reason)


def history(cluster: LocalCluster, node: str) -> list[dict[str, Any]]:
    """The node's history without its sightings."""
    entries = status(cluster, node).get("history", ())
    return [entry for entry in entries if entry["type"] != "Sighted"]


def types(entries: Iterable[dict[str, Any]]) -> list[str]:
    return [entry["type"] for entry in entries]


def node_labels(cluster: LocalCluster, node: str) -> dict[str, str]:
    """gpuid's labels on the Node, without their prefix."""
    labels = cluster.client.get(f"/api/v1/nodes/{node}")["metadata"]["labels"]
    prefix = "gpuid.github.com/"
    return {key.removeprefix(prefix): labels[key] for key in labels if key.startswith(prefix)}


def request_read(cluster: LocalCluster, node: str, token: str) -> None:
    """Ask for a read as users do."""
    annotation = {"gpuid.github.com/requestedAt": token}
    body = {"metadata": {"annotations": annotation}}
    cluster.client.send(Request("PATCH", f"{INVENTORIES}/{node}", body, content_type=MERGE))


def read_again(cluster: LocalCluster, node: str, token: str) -> None:
    """Ask for a read and wait until it has ended."""
    request_read(cluster, node, token)

    def handled() -> None:
        assert status(cluster, node).get("lastHandledRequest") == token

    eventually(handled)


def writes(cluster: LocalCluster, *, user: str = "admin", name: str | None = None) -> list[str]:
    """What the user changed, oldest first: `verb resource/subresource` of each write; with `name`,
    only of objects that are called so."""
    found = []
    for event in audit.events(cluster):
        if audit.user_of(event) == user and event["verb"] not in ("get", "list", "watch"):
            reference = event["objectRef"]
            words = (reference["resource"], reference.get("subresource"))
            if name in (None, reference.get("name")):
                found.append(f"{event['verb']} {'/'.join(filter(None, words))}")
    return found
