"""Programs that the tests need and that come as Go modules: built once into the user's cache.

`python -m tests.support.gotools` builds them all, so that no test has to wait for one; with names
it builds only those.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import pytest

from gpuid_operator.localcluster import RealNodeUnavailable, binaries, realnode
from gpuid_operator.localcluster.errors import BuildError
from release.tools import PROGRAMS, install

_CONTAINERD: Final = "github.com/containerd/containerd/v2/cmd"
VERSIONS: Final = PROGRAMS | {
    # Debian's containerd 1.6 does not know CDI, by which a container gets the devices of a claim.
    "containerd": f"{_CONTAINERD}/containerd@v2.2.9",
    "containerd-shim-runc-v2": f"{_CONTAINERD}/containerd-shim-runc-v2@v2.2.9",
    "crane": "github.com/google/go-containerregistry/cmd/crane@v0.22.1",
    "dra-example-driver": "sigs.k8s.io/dra-example-driver//cmd/dra-example-kubeletplugin@v0.4.0",
    "helm3": "helm.sh/helm/v3/cmd/helm@v3.21.4",
    "helm4": "helm.sh/helm/v4/cmd/helm@v4.3.1",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0",
    "policy-tester": "github.com/sigstore/policy-controller//cmd/tester@v0.13.1",
    "syft": "github.com/anchore/syft/cmd/syft@v1.20.0",
    "versitygw": "github.com/versity/versitygw/cmd/versitygw@v1.8.0",
}
"""Package and version by name."""


def go_tool(name: str) -> Path:
    """The program, built now if need be (helm: one to two minutes).

    Where it cannot be built the test is skipped, and fails where CI is set.
    """
    try:
        return install(name, VERSIONS[name])
    except BuildError as error:
        _missing(str(error))


def _missing(why: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def main(names: Sequence[str]) -> None:
    """Build what is missing; what cannot be built is named, and its tests say so again."""
    if not names:
        _build_cluster()
    for name in names or VERSIONS:
        began = time.monotonic()
        try:
            program = go_tool(name)
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            print(error)
        else:
            print(f"{time.monotonic() - began:4.0f} s  {program}", flush=True)


def _build_cluster() -> None:
    try:
        realnode.check()
        kubelet = True
    except RealNodeUnavailable:
        kubelet = False
    try:
        binaries.resolve(real_node=kubelet, progress=print)
    except BuildError as error:
        print(error)


if __name__ == "__main__":
    main(sys.argv[1:])
