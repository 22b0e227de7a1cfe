"""The real nvidia-smi over a simulated NVML: Debian's program, and a library that we build.

The program is not free software. The tests fetch it with apt from the archive of this machine, and
nothing passes it on.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gpuid_operator.localcluster import toolchain
from gpuid_operator.localcluster.errors import BuildError

SOURCE: Final = Path(__file__).parent / "nvml" / "simulated_nvml.c"
LIBRARY: Final = "libnvidia-ml.so.1"
PROGRAM: Final = "nvidia-smi"
_PLACES: Final = 257
"""Members of the table of functions that have no name."""


@dataclass(frozen=True)
class SimulatedGPU:
    """A GPU of the simulated NVML. The codes are those of nvmlReturn_t."""

    bus_id: str
    uuid: str
    serial: str
    handle_code: int = 0
    code: int = 0


@dataclass(frozen=True)
class Hardware:
    """What the simulated NVML finds."""

    gpus: tuple[SimulatedGPU, ...] = field(default=())
    init_code: int = 0

    def text(self) -> str:
        """The file that SIMULATED_NVML names."""
        lines = [f"init {self.init_code}"]
        for gpu in self.gpus:
            lines.append(f"gpu {gpu.bus_id} {gpu.uuid} {gpu.serial} {gpu.handle_code} {gpu.code}")
        return "\n".join(lines) + "\n"


def build() -> Path:
    """The folder with nvidia-smi and libnvidia-ml.so.1, made now if need be (4 seconds).

    Raises BuildError.
    """
    digest = hashlib.sha256(SOURCE.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:16]
    tools = toolchain.cache_directory() / "tools"
    target = tools / f"nvidia-smi-{digest}"
    tools.mkdir(parents=True, exist_ok=True)
    with (tools / "nvidia-smi.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=tools) as scratch:
                folder = Path(scratch) / "built"
                folder.mkdir()
                _fetch(Path(scratch), folder / PROGRAM)
                _compile(Path(scratch), folder)
                folder.rename(target)
    return target


def _run(*command: str | Path, cwd: Path) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"failed to run {command[0]}: {error}") from None
    if done.returncode:
        raise BuildError(
            f"failed to run '{' '.join(map(str, command))}': {done.stderr.strip()[-1000:]}\n"
            "nvidia-smi comes from the component non-free of Debian's archive (run 'apt-get update'"
            " first), the library from gcc and libc6-dev."
        )
    return done.stdout


def _fetch(scratch: Path, program: Path) -> None:
    """Fetch the Debian package with apt, whose own configuration stays as it is."""
    targets = _run(
        *("apt-get", "indextargets", "--format", "deb $(SITE) $(RELEASE) non-free"),
        *("Created-By: Packages", "Origin: Debian", "Component: main"),
        cwd=scratch,
    )
    sources = scratch / "sources.list"
    sources.write_text(targets)
    (scratch / "lists").mkdir()
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch,
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in settings.items())]
    _run(*apt, "update", cwd=scratch)
    _run(*apt, "download", PROGRAM, cwd=scratch)
    (package,) = scratch.glob("*.deb")
    _run("dpkg-deb", "--extract", package, "package", cwd=scratch)
    (found,) = scratch.glob("package/usr/lib/nvidia/*/nvidia-smi")
    found.rename(program)


def _compile(scratch: Path, folder: Path) -> None:
    wanted = re.findall(rb"\0(nvml[A-Z]\w+)(?=\0)", (folder / PROGRAM).read_bytes())
    missing = {name.decode() for name in wanted} - set(re.findall(r"\w+", SOURCE.read_text()))
    stubs = [f"int {name}(void) {{ return NOT_SUPPORTED; }}" for name in sorted(missing)]
    stubs += [f"PLACE({place})" for place in range(1, _PLACES)]
    members = ["(void *)sizeof places", *(f"at_{place}" for place in range(1, _PLACES))]
    stubs.append(f"static void *places[{_PLACES}] = {{ {', '.join(members)} }};")
    (scratch / "stubs.h").write_text("\n".join(stubs) + "\n")
    _run(
        *("gcc", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", "-Wno-unused-parameter"),
        *("-I", scratch, "-o", folder / LIBRARY, SOURCE),
        cwd=scratch,
    )


def glibc(folder: Path) -> dict[str, bytes | Path]:
    """The libraries of this machine that nvidia-smi needs, for an image, by path."""
    lines = _run("ldd", folder / PROGRAM, cwd=folder).split()
    return {path: Path(path).resolve() for path in lines if path.startswith("/")}
