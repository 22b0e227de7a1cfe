"""The hardware of a simulated node: files in its folder, read at each exec.

nodes/NODE/nvidia-smi.xml    the output of `nvidia-smi`: replace the file to change the hardware
nodes/NODE/behaviour.json    optional: faults of `nvidia-smi`
nodes/NODE/exec.log          one line per run
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Final

from gpuid_operator.localcluster.layout import Layout, write_atomically

BEHAVIOURS: Final[dict[str, tuple[type, ...]]] = {
    "exit": (int,),
    "stdout": (str, type(None)),
    "stderr": (str,),
    "delay": (int, float),
    "hang": (bool,),
    "missing": (bool,),
}
_PROGRAM: Final = "nvidia-smi"


def install_program(layout: Layout) -> None:
    """Put the simulated nvidia-smi where the simulated containers look for programs."""
    layout.bin.mkdir(parents=True, exist_ok=True)
    source = files("gpuid_operator.localcluster") / "fake"
    misbehave = layout.bin / "misbehave.py"
    write_atomically(misbehave, (source / "misbehave.py").read_bytes())
    script = (source / "nvidia-smi.sh").read_text()
    script = script.replace("@PYTHON@", sys.executable).replace("@MISBEHAVE@", str(misbehave))
    write_atomically(layout.bin / _PROGRAM, script.encode(), mode=0o755)


class Hardware:
    """The files of one simulated node."""

    def __init__(self, layout: Layout, node: str) -> None:
        self._node = node
        self.folder: Final = layout.nodes / node

    @property
    def smi_file(self) -> Path:
        return self.folder / "nvidia-smi.xml"

    def write_smi(self, xml: str | bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = xml.encode() if isinstance(xml, str) else xml
        write_atomically(self.smi_file, content)

    def set_behaviour(self, **behaviour: object) -> None:
        """Replace the faults of the node; others than the given ones end."""
        for key, value in behaviour.items():
            if not isinstance(value, BEHAVIOURS.get(key, ())):
                allowed = ", ".join(BEHAVIOURS)
                raise TypeError(
                    f"behaviour {key}={value!r} of {self._node}: the keys are {allowed}, "
                    "each with a value of its type"
                )
        content = json.dumps(behaviour).encode()
        write_atomically(self.folder / "behaviour.json", content)

    def clear_behaviour(self) -> None:
        (self.folder / "behaviour.json").unlink(missing_ok=True)

    def runs(self) -> list[float]:
        """When nvidia-smi was run: seconds since the epoch, oldest first."""
        try:
            lines = (self.folder / "exec.log").read_text().split()
        except FileNotFoundError:
            return []
        # The script logs the uptime of the machine, which a shell reads without another process.
        booted = time.time() - float(Path("/proc/uptime").read_text().split()[0])
        return [booted + float(line) for line in lines]

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def describe(xml: bytes) -> tuple[int, str]:
    """GPU count and product of an output, for the capacity and the labels of the node."""
    count = re.search(rb"<attached_gpus>\s*(\d+)", xml)
    product = re.search(rb"<product_name>([^<]*)", xml)
    gpus = int(count[1]) if count else xml.count(b"<gpu id=")
    return gpus, product[1].decode(errors="replace").strip() if product else "unknown"
