"""Folders of a node with a driver whose nvidia-smi works only as the real one does."""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path
from typing import Final

_LIBRARY: Final = "libnvidia-ml.so.1"
_NVIDIA_SMI: Final = f"""#!/usr/bin/python3
import os, pathlib, sys
assert sys.argv[1:] == ["-q", "-x"]
library = os.environ.get("LD_PRELOAD", "")
if "{_LIBRARY[:-2]}" not in library or library not in open("/proc/self/maps").read():
    sys.exit("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.")
if "LD_LIBRARY_PATH" in os.environ:
    os.abort()
try:
    os.close(os.open("/dev/nvidiactl", os.O_RDWR))
except (FileNotFoundError, PermissionError) as error:
    sys.exit(f"Failed to initialize NVML: {{error}}")
except OSError:
    pass  # there is no kernel module behind the device
print((pathlib.Path(__file__).parent / "smi.xml").read_text())
"""


def install(root: Path, smi: str) -> None:
    """A driver below a root, with links as Debian has them."""
    program, library = root / "usr/lib/nvidia", root / "usr/lib64"
    for folder in (program, library, root / "usr/bin"):
        folder.mkdir(parents=True)
    (program / "nvidia-smi").write_text(_NVIDIA_SMI)
    (program / "nvidia-smi").chmod(0o755)
    (program / "smi.xml").write_text(smi)
    (root / "usr/bin/nvidia-smi").symlink_to("/usr/lib/nvidia/nvidia-smi")
    shutil.copy(_any_library(), library / f"{_LIBRARY}.535")
    (library / _LIBRARY).symlink_to(f"{_LIBRARY}.535")


def make_devices(folder: Path) -> None:
    """What a container runtime expects in any /dev."""
    (folder / "shm").mkdir()
    _make_device(folder / "null", os.makedev(1, 3))


def make_control_device(folder: Path) -> None:
    """The device file that nvidia-smi opens first. Unlike /dev/null, the runtime lets only a
    privileged container open it."""
    _make_device(folder / "nvidiactl", os.makedev(195, 255))


def _make_device(path: Path, number: int) -> None:
    os.mknod(path, stat.S_IFCHR, number)
    path.chmod(0o666)


def _any_library() -> str:
    """A library of this machine, which the loader accepts in place of the driver's."""
    found = re.search(r"/\S+/libm\.so\.6", Path("/proc/self/maps").read_text())
    assert found, "this Python is not linked with libm"
    return found[0]
