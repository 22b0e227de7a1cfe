"""Go programs that a release needs: built once, at a pinned version, in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from gpuid_operator.localcluster import toolchain
from gpuid_operator.localcluster.errors import BuildError
from release.errors import ReleaseError

PROGRAMS: Final = {
    "cosign": "github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3",
    "oras": "oras.land/oras/cmd/oras@v1.3.6",
}
"""Package and version by name."""


def program(name: str) -> Path:
    """One of PROGRAMS, built on first use (cosign: two minutes). Raises BuildError."""
    return install(name, PROGRAMS[name])


def run(name: str, *arguments: str, settings: Mapping[str, str] | None = None) -> str:
    """The output of one of PROGRAMS; raises ReleaseError with its error output if it fails."""
    done = subprocess.run(
        [str(program(name)), *arguments],
        env=os.environ | (settings or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ReleaseError(
            f"failed to run '{name} {' '.join(arguments)}': exit code {done.returncode}\n"
            f"{done.stdout[-1000:]}{done.stderr[-2000:]}"
        )
    return done.stdout


def install(name: str, package: str) -> Path:
    """The program of a Go package, `path@version`. Raises BuildError if the build fails.

    `module//path@version` is a package whose module has `replace` directives, or whose versions the
    proxy does not list. Go applies the directives only in the main module, so the build runs in a
    copy of the source.
    """
    path, version = package.split("@")

    def build(build: _Build) -> Path:
        if "//" not in path:
            return build.package(package)
        module, _, inner = path.partition("//")
        return build.in_its_module(f"{module}@{version}", inner)

    return _once(name, version, build)


def install_own(name: str, source: Path) -> Path:
    """The program of a Go module in a folder of this project, built again when a file changes.

    Raises BuildError if the build fails.
    """
    files = hashlib.sha256()
    for path in sorted(source.iterdir()):
        files.update(path.read_bytes())
    return _once(name, files.hexdigest()[:16], lambda build: build.module(source, name))


def _once(name: str, version: str, build: Callable[[_Build], Path]) -> Path:
    """The program, built if the cache lacks this version of it."""
    folder = toolchain.cache_directory() / "tools"
    target = folder / f"{name}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        go = toolchain.find()
        if go.program is None:
            go = toolchain.install(print)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            build(_Build(str(go.program), Path(scratch))).rename(target)
    return target


class _Build:
    """One build. Its methods return the program."""

    def __init__(self, go: str, scratch: Path) -> None:
        self._go = go
        self._scratch = scratch
        self._programs = scratch / "bin"

    def package(self, package: str) -> Path:
        self._run("install", "-trimpath", "-ldflags", "-s -w", package, cwd=self._scratch)
        return self._programs / package.partition("@")[0].rpartition("/")[2]

    def in_its_module(self, module: str, package: str) -> Path:
        source = self._scratch / "source"
        found = self._run("mod", "download", "-json", module, cwd=self._scratch)
        shutil.copytree(json.loads(found)["Dir"], source, copy_function=shutil.copyfile)
        for path in (source, *source.rglob("*/")):
            path.chmod(0o755)  # the module cache is read-only
        return self.module(
            source, package.rpartition("/")[2].strip(".") or "program", f"./{package}"
        )

    def module(self, source: Path, name: str, package: str = ".") -> Path:
        flags = ["-trimpath", "-buildvcs=false", "-ldflags", "-s -w"]
        self._run("build", *flags, "-o", f"{self._programs}/{name}", package, cwd=source)
        return self._programs / name

    def _run(self, *arguments: str, cwd: Path) -> str:
        settings = {
            "GOBIN": str(self._programs),
            "CGO_ENABLED": "0",
            "GOFLAGS": "",
            "GOWORK": "off",
        }
        done = subprocess.run(
            [self._go, *arguments],
            cwd=cwd,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BuildError(
                f"failed to run 'go {' '.join(arguments)}': exit code {done.returncode}: "
                f"{done.stderr[-1000:]}\nThe build needs access to a Go module proxy (GOPROXY)."
            )
        return done.stdout
