"""An OpenTelemetry collector that writes down what it receives over OTLP/HTTP."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.gotools import go_tool
from tests.support.otlp_logs import records_of
from tests.support.servers import DEADLINE, free_port, wait_for

PAGE: Final = Path(__file__).parents[2] / "docs" / "sinks.md"
TOKEN: Final = "the-token-nobody-may-see"


@dataclass(frozen=True)
class Collector:
    """A collector of this run; `lines` has a request per line, `log` what it printed."""

    port: int
    lines: Path
    log: Path

    def records(self) -> list[dict[str, Any]]:
        """The records in the requests that were accepted, in order of arrival."""
        return [
            record
            for line in self.lines.read_bytes().splitlines()
            for record in records_of(json.loads(line))
        ]

    def sink(self, name: str = "telemetry", *, port: int | None = None) -> dict[str, Any]:
        """A sink that sends here, or to a proxy in front of it that listens on `port`."""
        url = f"http://localhost:{port or self.port}/v1/logs"
        http = {"url": url, "insecure": True, "format": "otlp"}
        return {"name": name, "batch": {"maxWait": "50ms"}, "http": http}


@contextmanager
def run_collector(folder: Path, *configs: dict[str, Any]) -> Iterator[Collector]:
    """A collector that is gone afterwards. Each configuration overrides those before."""
    port = free_port()
    collector = Collector(port, folder / "lines", folder / "log")
    at: dict[str, Any] = {"endpoint": f"localhost:{port}"}
    own: dict[str, Any] = {
        "receivers": {"otlp": {"protocols": {"http": at}}},
        "exporters": {"lines": {"path": str(collector.lines)}},
        "service": {"pipelines": {"logs": {"receivers": ["otlp"], "exporters": ["lines"]}}},
    }
    command = [str(go_tool("collector"))]
    for number, config in enumerate((*configs[:1], own, *configs[1:])):
        path = folder / f"{number}.yaml"
        path.write_text(yaml.safe_dump(config))
        command += ["--config", str(path)]
    with collector.log.open("wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | {"GPUID_TOKEN": TOKEN}, stdout=log, stderr=log
        )

    def accepts() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for("the collector", accepts, process)
        yield collector
    finally:
        process.terminate()
        process.wait(DEADLINE)


def documented() -> dict[str, Any]:
    """The configuration of a collector in docs/sinks.md."""
    (text,) = re.findall(
        r"^```yaml\n(extensions:\n.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    return dict(yaml.safe_load(text))
