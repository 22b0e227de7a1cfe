"""A real Prometheus with the project's rules, and the selectors of its expressions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import promql_parser
import pytest
import yaml

from gpuid_operator.localcluster.ports import free_ports
from tests.support.operators import eventually

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deployment" / "monitoring" / "rules.yaml"


def program(name: str) -> str:
    """A program of Debian's package prometheus."""
    if found := shutil.which(name):
        return found
    why = f"{name} is not installed: apt-get install prometheus"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def selectors(expression: str) -> set[str]:
    """The series selectors of an expression, without offsets."""
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.prettify().partition(" offset ")[0])
            return
        for field in ("lhs", "rhs", "expr", "args", "vector_selector", "param"):
            children = getattr(node, field, None)
            for child in children if isinstance(children, list) else [children]:
                if child is not None and not isinstance(child, str | int | float):
                    walk(child)

    walk(promql_parser.parse(expression))
    return found


class Prometheus:
    """A server that scrapes every second and evaluates the rules every second."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples; an expression that the server refuses fails with its words."""
        with urlopen(f"{self._url}/query?{urlencode({'query': expression})}") as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        result: list[dict[str, Any]] = body["data"]["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        with urlopen(f"{self._url}/rules") as answer:
            groups = json.load(answer)["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextmanager
def running(folder: Path, targets: Mapping[str, int]) -> Iterator[Prometheus]:
    """Prometheus with the project's rules; `targets` are ports on this machine, by job."""
    (port,) = free_ports(1)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
            for job, target in targets.items()
        ],
    }
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        server = Prometheus(port)

        def scrapes() -> None:
            try:
                up = {one["metric"]["job"] for one in server.query("up == 1")}
            except OSError as error:
                raise AssertionError(str(error)) from None
            assert up == set(targets)

        eventually(scrapes)
        yield server
    finally:
        process.terminate()
        process.wait()
