"""Programs that the tests need and that come as Go modules: built once into the user's cache.

`python tests/gotools.py` builds them all, so that no test has to wait for one.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import pytest

from gpuid_operator.localcluster import RealNodeUnavailable, binaries, realnode, toolchain
from gpuid_operator.localcluster.errors import BuildError

VERSIONS: Final = {
    "helm3": "helm.sh/helm/v3/cmd/helm@v3.21.4",
    "helm4": "helm.sh/helm/v4/cmd/helm@v4.3.1",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0",
    "versitygw": "github.com/versity/versitygw/cmd/versitygw@v1.8.0",
}
"""Package and version by name."""


def go_tool(name: str) -> Path:
    """The program, built now if need be (helm: one to two minutes).

    Where it cannot be built the test is skipped, and fails where CI is set.
    """
    package = VERSIONS[name]
    program, version = package.rpartition("/")[2].split("@")
    folder = toolchain.cache_directory() / "tools"
    target = folder / f"{name}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        go = toolchain.find()
        if go.program is None:
            try:
                go = toolchain.install(print)
            except BuildError as error:
                _missing(str(error))
        with tempfile.TemporaryDirectory(dir=folder) as bin_folder:
            environment = os.environ | {"GOBIN": bin_folder, "CGO_ENABLED": "0", "GOFLAGS": ""}
            done = subprocess.run(
                [str(go.program), "install", "-trimpath", "-ldflags", "-s -w", package],
                env=environment,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                _missing(f"{package} cannot be built: {done.stderr[-1000:]}")
            (Path(bin_folder) / program).rename(target)
    return target


def _missing(why: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def main() -> None:
    """Build what is missing; what cannot be built is named, and its tests say so again."""
    try:
        realnode.check()
        kubelet = True
    except RealNodeUnavailable:
        kubelet = False
    try:
        binaries.resolve(real_node=kubelet, progress=print)
    except BuildError as error:
        print(error)
    for name in VERSIONS:
        began = time.monotonic()
        try:
            program = go_tool(name)
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            print(error)
        else:
            print(f"{time.monotonic() - began:4.0f} s  {program}", flush=True)


if __name__ == "__main__":
    main()
