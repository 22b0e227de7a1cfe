"""The operator's image, built from the Dockerfile by buildah over a base of Debian packages."""

from __future__ import annotations

import ast
import os
import platform
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from gpuid_operator.localcluster import toolchain

ROOT: Final = Path(__file__).parent.parent.parent
NEEDED: Final = ("buildah", "debootstrap")
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_NVIDIA_SMI: Final = """#!/usr/bin/python3
import sys
assert sys.argv[1:] == ["-q", "-x"]
sys.stdout.write(open("/smi.xml").read())
"""
_PIP_SETTINGS: Final = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")


def build(folder: Path, *, name: str, with_smi: str, smi: str) -> list[Path]:
    """Build the image as `name` in a storage of its own under `folder`; the paths of two tars.

    The second is the image `with_smi`: the first with a simulated nvidia-smi that prints `smi`, as
    the NVIDIA container runtime would put a real one there. The packages of the base are kept in
    the user's cache. A program that is missing skips the test, and fails it where CI is set.
    """
    absent = [program for program in NEEDED if shutil.which(program) is None]
    if absent:
        why = f"missing here: {', '.join(absent)} (apt-get install {' '.join(absent)})"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    storage = folder / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/images"\nrunroot = "{folder}/run"\n'
    )
    environment = os.environ | {
        "CONTAINERS_STORAGE_CONF": str(storage),
        # Needs nothing of the kernel that a container lacks.
        "BUILDAH_ISOLATION": "chroot",
    }
    environment.pop("STORAGE_DRIVER", None)

    def run(*command: str) -> None:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (
            f"{' '.join(command)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )

    run("scripts/base-image.sh", str(toolchain.cache_directory() / "base-image"))
    secrets = {"pip": _pip_configuration(folder), "ca": Path(_authorities())}
    arguments = {
        "BASE": "localhost/gpuid-base",
        "BUILDER": "localhost/gpuid-builder",
        "TARGETARCH": _ARCHITECTURES[platform.machine()],
    }
    run(
        *("buildah", "bud", "--quiet", "--layers=false", "--timestamp", "0", "--tag", "operator"),
        *(f"--secret=id={key},src={path}" for key, path in secrets.items()),
        *(f"--build-arg={key}={value}" for key, value in arguments.items()),
        ".",
    )
    context = folder / "with-smi"
    context.mkdir()
    (context / "smi.xml").write_text(smi)
    (context / "nvidia-smi").write_text(_NVIDIA_SMI)
    (context / "nvidia-smi").chmod(0o755)
    (context / "Dockerfile").write_text(
        "FROM localhost/operator\nCOPY smi.xml /\nCOPY nvidia-smi /usr/bin/\n"
    )
    run("buildah", "bud", "--quiet", "--tag", "with-smi", str(context))
    tars = []
    for image, tag in (("operator", name), ("with-smi", with_smi)):
        tar = folder / f"{image}.tar"
        run("buildah", "push", "--quiet", image, f"docker-archive:{tar}:{tag}")
        tars.append(tar)
    shutil.rmtree(folder / "images")
    return tars


def _pip_configuration(folder: Path) -> Path:
    """How pip reaches its index on this machine, as a file."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    lines = ["[global]"]
    for line in listed.stdout.splitlines():
        section, _, setting = line.partition("=")[0].rpartition(".")
        if setting in _PIP_SETTINGS and section in ("global", ":env:"):
            value = ast.literal_eval(line.partition("=")[2])
            lines.append(f"{setting} = {value}")
    path = folder / "pip.conf"
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")
    return path


def _authorities() -> str:
    """The certificate authorities that this machine trusts."""
    return os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile or os.devnull
