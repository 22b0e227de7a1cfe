"""Programs that the tests need, nearly all of them Go modules: built once into the user's cache.

`python -m tests.support.gotools` builds them all, so that no test has to wait for one; with names
it builds only those.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import pytest

from gpuid_operator.localcluster import RealNodeUnavailable, binaries, realnode, toolchain
from gpuid_operator.localcluster.errors import BuildError
from release.tools import PROGRAMS, install, install_own
from tests.support import javatools, nodetools, real_smi

_CONTAINERD: Final = "github.com/containerd/containerd/v2/cmd"
VERSIONS: Final = PROGRAMS | {
    # Debian's containerd 1.6 does not know CDI, by which a container gets the devices of a claim.
    "containerd": f"{_CONTAINERD}/containerd@v2.2.9",
    "containerd-shim-runc-v2": f"{_CONTAINERD}/containerd-shim-runc-v2@v2.2.9",
    "crane": "github.com/google/go-containerregistry/cmd/crane@v0.22.1",
    "fake-gcs-server": "github.com/fsouza/fake-gcs-server@v1.56.1",
    "dra-example-driver": "sigs.k8s.io/dra-example-driver//cmd/dra-example-kubeletplugin@v0.4.0",
    "helm3": "helm.sh/helm/v3/cmd/helm@v3.21.4",
    "helm4": "helm.sh/helm/v4/cmd/helm@v4.3.1",
    "krew": "sigs.k8s.io/krew/cmd/krew@v0.5.0",
    "kube-state-metrics": "k8s.io/kube-state-metrics/v2//.@v2.18.0",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0",
    "operator-verify": "github.com/operator-framework/api/cmd/operator-verify@v0.42.0",
    "policy-tester": "github.com/sigstore/policy-controller//cmd/tester@v0.13.1",
    "syft": "github.com/anchore/syft/cmd/syft@v1.20.0",
    "validate-krew-manifest": "sigs.k8s.io/krew/cmd/validate-krew-manifest@v0.5.0",
    "versitygw": "github.com/versity/versitygw/cmd/versitygw@v1.8.0",
}
"""Package and version by name."""
OWN: Final = {name: Path(__file__).with_name(name) for name in ("collector", "kfake")}
"""Folder of the Go module by name."""
_PROMETHEUS_OPERATOR: Final = "github.com/prometheus-operator/prometheus-operator@v0.85.0"

T = TypeVar("T")


def go_tool(name: str) -> Path:
    """The program, built now if need be (helm: one to two minutes); see `_or_missing`."""
    if name in OWN:
        return _or_missing(partial(install_own, name, OWN[name]))
    return _or_missing(partial(install, name, VERSIONS[name]))


def prometheus_operator_crds() -> list[Path]:
    """The CRDs of the kinds that the chart can create, fetched now if need be (3 s)."""
    folder = _or_missing(_prometheus_operator) / "example" / "prometheus-operator-crd"
    kinds = ("podmonitors", "prometheusrules", "servicemonitors")
    return [folder / f"monitoring.coreos.com_{kind}.yaml" for kind in kinds]


def _prometheus_operator() -> Path:
    """The source of the Prometheus operator, in Go's own cache. Raises BuildError."""
    go = toolchain.find()
    if go.program is None:
        go = toolchain.install(print)
    done = subprocess.run(
        [str(go.program), "mod", "download", "-json", _PROMETHEUS_OPERATOR],
        cwd=Path("/"),  # outside any module
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"failed to fetch {_PROMETHEUS_OPERATOR}: {done.stdout}{done.stderr}")
    return Path(json.loads(done.stdout)["Dir"])


def real_nvidia_smi() -> Path:
    """The folder with the real nvidia-smi and the simulated NVML, made now if need be (4 s)."""
    return _or_missing(real_smi.build)


def azurite() -> list[str]:
    """The command that runs the Blob service of azurite, installed now if need be (a minute)."""
    return _or_missing(nodetools.azurite)


def kafka_classpath() -> str:
    """The class path of Kafka, fetched now if need be (20 seconds)."""
    return _or_missing(javatools.kafka_classpath)


_OTHERS: Final[dict[str, Callable[[], object]]] = {
    real_smi.PROGRAM: real_nvidia_smi,
    "azurite": azurite,
    javatools.PROGRAM: kafka_classpath,
    "prometheus-operator": prometheus_operator_crds,
}


def _or_missing(build: Callable[[], T]) -> T:
    """What `build` returns. Where it fails, the test is skipped, and fails where CI is set."""
    try:
        return build()
    except BuildError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


def main(names: Sequence[str]) -> None:
    """Build what is missing; what cannot be built is named, and its tests say so again."""
    if not names:
        _build_cluster()
    for name in names or (*VERSIONS, *OWN, *_OTHERS):
        began = time.monotonic()
        try:
            program = _OTHERS[name]() if name in _OTHERS else go_tool(name)
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            print(error)
        else:
            print(f"{time.monotonic() - began:4.0f} s  {str(program)[:200]}", flush=True)


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
