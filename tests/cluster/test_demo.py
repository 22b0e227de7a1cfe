"""The demo shows what is there, says what is not, gives advice that works, and leaves nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuid_operator.localcluster.smi import generate
from gpuid_operator.localcluster.waiting import wait_for

GPUID_OPERATOR = Path(sys.executable).with_name("gpuid-operator")
DEADLINE = 120.0


class Demo:
    """Runs of the demo whose temporary files, and whose processes, can be told from all others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "t"
        self.temporary.mkdir()
        self._runs: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            process = subprocess.Popen(
                [str(GPUID_OPERATOR), "demo", *arguments],
                env=os.environ | {"TMPDIR": str(self.temporary)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self._runs.append(process)
        return process

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def wait_for_output(self, text: str) -> None:
        wait_for(text, lambda: text in self.out + self.err or None, timeout=DEADLINE)

    def processes(self) -> dict[int, str]:
        """Command lines of what runs with the temporary directory of these runs."""
        mark = f"TMPDIR={self.temporary}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    found[int(entry.name)] = b" ".join(words).decode(errors="replace").strip()
            except OSError:  # gone, or another user's
                continue
        return found

    def end(self) -> None:
        for process in self._runs:
            process.kill()
            process.wait()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def demo() -> Iterator[Demo]:
    # Not under pytest's own folder: its names are too long for sockets.
    folder = Path(tempfile.mkdtemp(prefix="gpuid-"))
    demo = Demo(folder)
    yield demo
    demo.end()
    shutil.rmtree(folder)


def nothing_is_left(demo: Demo) -> bool:
    return not demo.processes() and not list(demo.temporary.iterdir())


def table(text: str) -> list[dict[str, str]]:
    """The rows of kubectl's table by column; columns are apart by three spaces or more."""
    lines = [line for line in text.splitlines() if line]
    header = re.split(r"\s{3,}", lines[0].strip())
    starts = [lines[0].index(name) for name in header]
    ends = [*starts[1:], None]
    return [
        {name: line[a:b].strip() for name, a, b in zip(header, starts, ends, strict=True)}
        for line in lines[1:]
        if line.startswith("gpu-")
    ]


def test_once_ends_well_with_the_table_of_all_nodes(demo: Demo) -> None:
    process = demo.start("--once", "--nodes", "3", "--gpu", "gb200")
    assert process.wait(DEADLINE) == 0, demo.err
    rows = table(demo.out)
    assert [row["NAME"] for row in rows] == ["gpu-node-0000", "gpu-node-0001", "gpu-node-0002"]
    assert {(row["GPUS"], row["PRODUCT"], row["READY"]) for row in rows} == {
        ("4", "NVIDIA GB200", "True")
    }
    assert nothing_is_left(demo)


def test_once_names_the_node_that_is_not_ready_and_the_reason(demo: Demo) -> None:
    good, broken = demo.folder / "good.xml", demo.folder / "broken.xml"
    good.write_text(generate("h100", node="good"))
    broken.write_text(generate("h100", node="broken").rpartition("</nvidia_smi_log>")[0])
    process = demo.start("--once", "--smi", str(good), str(broken))
    assert process.wait(DEADLINE) == 1, demo.err
    assert {row["NAME"]: row["READY"] for row in table(demo.out)} == {
        "gpu-node-0000": "True",
        "gpu-node-0001": "False",
    }
    assert re.search(r"^  gpu-node-0001  Incomplete: \S", demo.out, re.MULTILINE)
    assert nothing_is_left(demo)


def test_its_advice_works_and_ctrl_c_leaves_nothing_behind(demo: Demo) -> None:
    process = demo.start("--nodes", "1", "--gpu", "gb200")
    demo.wait_for_output("gpu serial number reading")
    exports, *commands = re.findall(r"^  (.*)", demo.out, re.MULTILINE)

    def shell(command: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", f"{exports}\n{command}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    [wide] = [command for command in commands if command.endswith("-o wide")]
    [history] = [command for command in commands if ".status.history" in command]
    [swap] = [command for command in commands if command.startswith("sed ")]
    [(old, new)] = re.findall(r"s/<serial>(\d+)</<serial>(\d+)</", swap)
    assert old in shell(wide)
    for command in commands:
        shell(command)
    wait_for("the swap", lambda: "GPURemoved" in shell(history) or None, timeout=DEADLINE)
    assert old not in shell(wide)
    assert new in shell(wide)
    [where] = [command for command in commands if f"-L serial.gpuid.github.com/{old}" in command]
    wait_for("the label", lambda: " past" in shell(where) or None, timeout=DEADLINE)

    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 0
    assert nothing_is_left(demo)


def test_an_interruption_at_the_start_leaves_nothing_behind(demo: Demo) -> None:
    process = demo.start("--nodes", "1")
    demo.wait_for_output("starting the control plane")
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 130
    assert nothing_is_left(demo)


def test_the_death_of_the_operator_is_told_with_its_log(demo: Demo) -> None:
    process = demo.start("--nodes", "1")
    demo.wait_for_output("Ctrl-C")
    [pid] = [pid for pid, words in demo.processes().items() if words.endswith("gpuid_operator run")]
    os.kill(pid, signal.SIGKILL)
    assert process.wait(DEADLINE) == 1
    assert "the operator ended with exit code -9" in demo.err
    assert "initial list completed" in demo.err
    [kept] = demo.temporary.iterdir()
    assert str(kept) in demo.err
    assert (kept / "operator.log").exists()
    assert not demo.processes()
