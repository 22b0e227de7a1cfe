"""Go programs that a release needs: built once, at a pinned version, in the user's cache."""

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

    `module//path@version` is a package whose module has `replace` directives. Go applies them only
    in the main module, so the build runs in a copy of the source.
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
    """One build, which writes its program to `folder`."""

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
                f"failed to run 'go {' '.join(arguments)}': exit code {done.returncode}: "
                f"{done.stderr[-1000:]}\nThe build needs access to a Go module proxy (GOPROXY)."
            )
        return done.stdout
