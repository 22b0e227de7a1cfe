"""The image that was verified is the one that runs on a real kubelet, and it reads a node."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from gpuid_operator.localcluster import LocalCluster, RealNodeUnavailable, realnode
from gpuid_operator.localcluster.ports import free_ports
from tests.release.published import Release
from tests.support.gotools import go_tool
from tests.support.operators import eventually, read_well

pytestmark = pytest.mark.node
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    try:
        realnode.check()
    except RealNodeUnavailable as reason:
        pytest.skip(str(reason))
    directory = Path(tempfile.mkdtemp(prefix="gpuid-"))
    cluster = LocalCluster.up(directory, nodes=1, real_node=True)
    yield cluster
    cluster.down()
    shutil.rmtree(directory)


def test_it_runs_and_reads_a_node(release: Release, cluster: LocalCluster, tmp_path: Path) -> None:
    machine = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout
    architecture = ARCHITECTURE[machine.strip()]
    version, tar = release.about["version"], tmp_path / "image.tar"
    platform = f"--platform=linux/{architecture}"
    tag = f"{release.repository}:{version}"
    release.island.tool("crane", "pull", platform, tag, tar)
    cluster.import_image(tar)
    (port,) = free_ports(1, host="0.0.0.0")
    values = {
        "replicaCount": 1,
        "hostNetwork": True,
        "nodeSelector": {"kubernetes.io/hostname": cluster.real_node_name},
        "image": {
            "registry": tag.removesuffix(f"/gpuid-operator:{version}"),
            "pullPolicy": "Never",
        },
        "port": port,
        "service": {"port": port},
        "crds": {"install": False},
    }
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    chart = release.folder / f"gpuid-operator-{version}.tgz"
    done = subprocess.run(
        [
            *(str(go_tool("helm3")), "install", "gpuid-operator", str(chart)),
            *("--namespace", "gpuid", "--values", str(file), "--wait", "--timeout=120s"),
            f"--kubeconfig={cluster.kubeconfig}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    pods = json.loads(cluster.kubectl("get", "pods", "-n", "gpuid", "-o", "json").stdout)["items"]
    assert done.returncode == 0, f"{done.stderr}{json.dumps([one['status'] for one in pods])}"
    # The pod is ready before the inventories exist.
    for name in cluster.node_names:
        eventually(partial(read_well, cluster, name), within=90)
    # What runs is what the verified manifest names.
    manifest = json.loads(
        release.island.tool("crane", "manifest", release.images[architecture]).stdout
    )
    (running,) = {one["status"]["containerStatuses"][0]["imageID"] for one in pods}
    assert running.endswith(manifest["config"]["digest"])
