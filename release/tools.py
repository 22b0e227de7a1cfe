"""Programs in Go that a release needs: built once, at one version, into the user's cache."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
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
    """One of PROGRAMS, built now if need be (cosign: two minutes). Raises BuildError."""
    return install(name, PROGRAMS[name])


def run(name: str, *arguments: str, settings: Mapping[str, str] | None = None) -> str:
    """What one of PROGRAMS prints; raises ReleaseError with its words if it fails."""
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
            f"'{name} {' '.join(arguments)}' ended with {done.returncode}:\n"
            f"{done.stdout[-1000:]}{done.stderr[-2000:]}"
        )
    return done.stdout


def install(name: str, package: str) -> Path:
    """The program of a Go package, `path@version`. Raises BuildError where it cannot be built.

    `module//path@version` is a package whose module replaces others, which only counts where it is
    the main one: its source is then built in a copy.
    """
    path, version = package.split("@")
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
            build = _Build(str(go.program), Path(scratch))
            if "//" in path:
                module, _, inner = path.partition("//")
                build.in_its_module(f"{module}@{version}", inner)
            else:
                build.package(package)
            (build.folder / path.rpartition("/")[2]).rename(target)
    return target


class _Build:
    """One build, whose program lands in `folder`."""

    def __init__(self, go: str, scratch: Path) -> None:
        self._go = go
        self._scratch = scratch
        self.folder = scratch / "bin"

    def package(self, package: str) -> None:
        self._run("install", "-trimpath", "-ldflags", "-s -w", package, cwd=self._scratch)

    def in_its_module(self, module: str, package: str) -> None:
        source = self._scratch / "source"
        found = self._run("mod", "download", "-json", module, cwd=self._scratch)
        shutil.copytree(json.loads(found)["Dir"], source, copy_function=shutil.copyfile)
        for path in (source, *source.rglob("*/")):
            path.chmod(0o755)  # the module cache is read-only
        flags = ["-trimpath", "-buildvcs=false", "-ldflags", "-s -w"]
        self._run("build", *flags, "-o", f"{self.folder}/", f"./{package}", cwd=source)

    def _run(self, *arguments: str, cwd: Path) -> str:
        settings = {"GOBIN": str(self.folder), "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
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
                f"'go {' '.join(arguments)}' ended with {done.returncode}: {done.stderr[-1000:]}\n"
                "It needs a Go module proxy within reach (GOPROXY)."
            )
        return done.stdout
