"""`kubectl gpuid` in a shell: as a plugin, with completion and colours."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from gpuid_operator.cli import plugin_complete
from gpuid_operator.cli.plugin import cli
from gpuid_operator.localcluster import LocalCluster
from tests.cluster.plugin.inventories import (
    UUID_1,
)


def test_it_works_as_a_plugin_of_kubectl(moved: None, fleet: LocalCluster, config: Path) -> None:
    scripts = Path(sys.executable).parent
    environment = {
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "KUBECONFIG": str(config),
        "HOME": os.environ["HOME"],
    }

    def kubectl(*words: str) -> str:
        return subprocess.run(
            [fleet.kubectl_program, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert "Usage: kubectl gpuid [OPTIONS]" in kubectl("gpuid", "--help")
    assert UUID_1 in kubectl("gpuid", "where", UUID_1)
    assert kubectl("__complete", "gpuid", "history", "n-").splitlines() == [
        "n-a",
        "n-b",
        "n-c",
        ":4",
    ]


def test_names_and_identifiers_are_completed(
    moved: None, contexts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def completed(*words: str) -> list[str]:
        command, *rest = words
        plugin_complete.answer(cli, [command, "--kubeconfig", str(contexts), *rest])
        return capsys.readouterr().out.splitlines()

    assert completed("where", "") == ["S-1\tpresent n-b, past n-a", "S9\tpresent n-c", ":4"]
    assert completed("where", "GPU-25") == [f"{UUID_1}\tpresent n-b, past n-a", ":4"]
    assert completed("history", "") == [
        *["n-a", "n-b", "n-c"],
        *["S-1\tpresent n-b, past n-a", "S9\tpresent n-c", ":4"],
    ]
    assert completed("read", "n-a", "n-") == ["n-b", "n-c", ":4"]
    assert completed("read", "--context", "down", "n-") == [":4"]


@pytest.mark.parametrize("variable", ["TERM", "NO_COLOR"])
def test_colours_are_for_terminals_that_want_them(variable: str, moved: None, config: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {
        "PATH": os.environ["PATH"],
        "KUBECONFIG": str(config),
        "TERM": "xterm-256color",
        variable: "xterm-256color",
    }
    program = Path(sys.executable).with_name("kubectl-gpuid")
    with subprocess.Popen([program, "list"], env=environment, stdout=theirs) as process:
        os.close(theirs)
        text = b""
        # Linux ends the reading of a terminal whose other side is closed with an error.
        try:
            while chunk := os.read(ours, 65536):
                text += chunk
        except OSError:
            assert text
        finally:
            os.close(ours)
    assert process.returncode == 0
    assert (b"\x1b[32mTrue" in text) is (variable == "TERM")
    assert b"n-a" in text
