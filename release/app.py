"""The folder /app of the image: the operator and the Python packages that it needs.

The Dockerfile and the release use this script in two steps, so that download and assembly can run
under different Pythons. It needs only the standard library, and pip for `fetch`:

    python3 app.py fetch amd64|arm64 REQUIREMENTS WHEELS [PYTHON-VERSION]
    python3 app.py assemble WHEELS SOURCE APP

The script unpacks wheels and never installs them, so the folder contains nothing of the build
machine, and any machine can create the folder of any architecture.
"""

from __future__ import annotations

import compileall
import py_compile
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import Final

CPUS: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_NEWEST_GLIBC: Final = 36
"""Debian 12 has glibc 2.36."""
_PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
_DROPPED_FOLDERS: Final = ("tests", "test")
_DROPPED_SUFFIXES: Final = (".c", ".h", ".pxd", ".pyi", ".pyx")
_DEMO: Final = ("localcluster", "cli/cluster.py", "cli/demo")
"""The local cluster and the commands that need it: in the wheel, but not in the image. They build
and start servers, which an operator in a cluster never does."""
_NOT_COMPILED: Final = re.compile(r"/(kubernetes_asyncio|pygments|tzdata)/")
"""Large packages that the operator in a cluster does not import."""


def fetch(architecture: str, requirements: Path, wheels: Path, python: str = _PYTHON) -> None:
    """Download the locked wheels of an architecture with pip, which checks their hashes.

    `python` is the version that will run them, such as `3.11`.
    """
    cpu = CPUS[architecture]
    tags = [f"manylinux_2_{minor}_{cpu}" for minor in range(_NEWEST_GLIBC, 16, -1)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += [
        "--require-hashes",
        "--only-binary=:all:",
        "--no-deps",
        f"--python-version={python}",
    ]
    command += [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{cpu}")]
    command += [f"--requirement={requirements}", f"--dest={wheels}"]
    subprocess.run(command, check=True)


def assemble(wheels: Path, source: Path, app: Path) -> None:
    """Create the folder `app` from the wheels and the package in the source tree, which goes in
    without the local cluster and the demo."""
    app.mkdir(parents=True)
    for wheel in sorted(wheels.glob("*.whl")):
        _unpack(wheel, app)
    package = app / "gpuid_operator"
    _copy_package(source / "gpuid_operator", package)
    shutil.copy(source / "LICENSE", package)
    # Python does not check this byte code, so it does not depend on the time of any file.
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(
        app,
        quiet=1,
        rx=_NOT_COMPILED,
        invalidation_mode=unchecked,
        stripdir=str(app),
        prependdir="/app",
    ):
        raise SystemExit(f"failed to compile all of {app}: see the errors above")


def _copy_package(source: Path, target: Path) -> None:
    def unwanted(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(source)
        demo = {name for name in names if (inside / name).as_posix() in _DEMO}
        return demo | shutil.ignore_patterns("__pycache__", "*.pyc")(folder, names)

    shutil.copytree(source, target, ignore=unwanted)


def _unpack(wheel: Path, app: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            path = PurePosixPath(name)
            if path.parts[0].endswith(".data"):
                if path.parts[1] not in ("purelib", "platlib"):
                    continue  # programs and headers
                path = PurePosixPath(*path.parts[2:])
            dropped = path.suffix in _DROPPED_SUFFIXES or set(_DROPPED_FOLDERS) & set(path.parts)
            if name.endswith("/") or dropped:
                continue
            target = app / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))


def main(arguments: list[str]) -> None:
    match arguments:
        case ["fetch", architecture, requirements, wheels, *python] if architecture in CPUS:
            fetch(architecture, Path(requirements), Path(wheels), *python)
        case ["assemble", wheels, source, app]:
            assemble(Path(wheels), Path(source), Path(app))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
