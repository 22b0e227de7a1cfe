"""Takes the picture of the demo in docs/images/demo.svg: what it printed, and a swap of a board."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from gpuid_operator.localcluster.waiting import wait_for
from tests.cluster.test_demo import DEADLINE, Demo
from tests.support.terminal_picture import picture

PICTURE: Final = Path(__file__).parents[2] / "docs" / "images" / "demo.svg"
TITLE: Final = "The demo: six simulated nodes, and a board that was replaced"
_HISTORY: Final = "kubectl gpuid history gpu-node-0000"


def take() -> list[str]:
    """The lines of the picture, from a run of the demo."""
    folder = Path(tempfile.mkdtemp(prefix="gpuid-"))
    demo = Demo(folder)
    try:
        return _take(demo)
    finally:
        demo.end()
        shutil.rmtree(folder)


def _take(demo: Demo) -> list[str]:
    process = demo.start("--nodes", "6")
    demo.wait_for_output("gpu serial number reading")
    table = demo.out.partition("\n\n")[0].splitlines()
    exports, *commands = re.findall(r"^  (.*)", demo.out, re.MULTILINE)

    def shell(command: str) -> str:
        return subprocess.run(
            ["bash", "-ec", f"{exports}\n{command}"], capture_output=True, text=True, check=True
        ).stdout

    [swap] = [command for command in commands if command.startswith("sed ")]
    [restart] = [command for command in commands if " restart-plugin " in command]
    [history] = [command for command in commands if ".status.history" in command]
    shell(swap)
    shell(restart)
    wait_for("the swap", lambda: "GPURemoved" in shell(history) or None, timeout=DEADLINE)
    head, *entries = shell(_HISTORY).splitlines()
    lines = [
        '$ make demo DEMO_ARGS="--nodes 6"',
        *[line for line in demo.err.splitlines() if line.startswith(("  read 6", "$ "))],
        *table,
        "",
        "# A board of gpu-node-0000 is replaced, and its device plugin restarts:",
        f"$ {_HISTORY}",
        head,
        "…",
        *[line for line in entries[-4:] if "Sighted" not in line],
    ]
    process.send_signal(signal.SIGINT)
    process.wait(DEADLINE)
    return [line.rstrip() for line in lines]


if __name__ == "__main__":
    PICTURE.write_text(picture(take(), title=TITLE), encoding="utf-8")
