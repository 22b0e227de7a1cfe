"""The process from outside: exit codes, its last line, and what it says while it cannot work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpuid_operator.localcluster.ports import free_ports
from gpuid_operator.operator.app import BAD_SETTINGS

RUN = [sys.executable, "-m", "gpuid_operator", "run"]


def environ(**variables: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, **variables}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"WORKERS": "many"},
            'WORKERS="many" is invalid: expected a whole number from 1 to 500',
        ),
        (
            {"HTTP_AUTH_TOKEN": "hunter2\x01", "EXPORTER_TYPE": "http"},
            "HTTP_AUTH_TOKEN has an invalid value (not shown): expected text without line breaks"
            " and control characters",
        ),
        ({"EXPORTER_TYPE": "s3"}, "S3_BUCKET is not set: EXPORTER_TYPE=s3 requires it"),
    ],
)
def test_an_invalid_environment_is_exit_code_2_and_one_line(
    variables: dict[str, str], expected: str
) -> None:
    done = subprocess.run(
        RUN, env=environ(**variables), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (BAD_SETTINGS, "") == (2, "")
    [line] = lines(done.stdout)
    assert (line["level"], line["msg"]) == ("ERROR", expected)
    assert "hunter2" not in done.stdout


def test_a_value_that_is_not_utf8_is_one_line_too() -> None:
    done = subprocess.run(
        RUN,
        env={os.fsencode(k): os.fsencode(v) for k, v in environ().items()}
        | {b"POD_NAME": b"a\xff"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "")
    [line] = lines(done.stdout)
    assert line["msg"].startswith('POD_NAME="a?" is invalid: expected ')


def test_without_a_cluster_it_keeps_trying_and_sigterm_ends_it_with_exit_code_0(
    tmp_path: Path,
) -> None:
    process = subprocess.Popen(
        RUN,
        env=environ(KUBECONFIG=str(tmp_path / "none"), SERVER_PORT=str(free_ports(1)[0])),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    started = process.stdout.readline()
    failed = process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert json.loads(started)["msg"] == "starting gpuid-operator"
    line = json.loads(failed)
    assert (line["level"], line["msg"]) == ("ERROR", "failed to connect to the cluster")
    assert line["again_in"] == "1s"
    assert [line["msg"] for line in lines(rest)][-2:] == ["stopping", "stopped"]
