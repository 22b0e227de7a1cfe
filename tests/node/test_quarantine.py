"""The taint of a quarantine and a real kubelet: new pods stay away, running ones stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.smi import generate
from tests.node.smi_image import import_smi_image
from tests.support.operators import Operator, eventually, read_well
from tests.support.quarantines import TAINT, condemn, lift, taints
from tests.support.smi_fixtures import serials

IMAGE = "gpuid.local/quarantined-plugin:test"
SMI = generate("h100", node="real-quarantine", gpus=2, pad_to=0)
PLUGIN = {"app": "quarantine-plugin"}
"""Not those of the DaemonSet of the simulated nodes, which would adopt the pod."""
SETTINGS: dict[str, Any] = {
    "QUARANTINE_TAINTS": "true",
    "LABEL_SELECTOR": "app=quarantine-plugin",
    "CONTAINER": "nvidia-device-plugin",
}


@pytest.fixture(scope="module")
def image(node_cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with a simulated nvidia-smi, on the real node."""
    import_smi_image(node_cluster, tmp_path_factory.mktemp("image"), IMAGE, SMI)
    return IMAGE


@pytest.fixture
def plugin(node_cluster: LocalCluster, image: str) -> Iterator[str]:
    """The target pod of the real node."""
    start(node_cluster, "quarantine-plugin", PLUGIN, container="nvidia-device-plugin")
    eventually(lambda: is_in_phase(node_cluster, "quarantine-plugin", "Running"), within=90)
    yield "quarantine-plugin"
    remove(node_cluster, "quarantine-plugin")


def start(
    cluster: LocalCluster, name: str, labels: dict[str, str], *, container: str = "main"
) -> None:
    """Create a pod that only the real node can run."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "gpu-operator", "labels": labels},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": cluster.real_node_name},
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": container, "image": IMAGE, "imagePullPolicy": "Never"}],
        },
    }
    cluster.kubectl("create", "-f", "-", input=json.dumps(pod))


def remove(cluster: LocalCluster, name: str) -> None:
    cluster.kubectl("delete", "pod", "-n", "gpu-operator", name)


def pod(cluster: LocalCluster, name: str) -> dict[str, Any]:
    return dict(cluster.client.get(f"/api/v1/namespaces/gpu-operator/pods/{name}"))


def is_in_phase(cluster: LocalCluster, name: str, phase: str) -> None:
    assert pod(cluster, name)["status"]["phase"] == phase


def is_unschedulable(cluster: LocalCluster, name: str) -> None:
    conditions = pod(cluster, name)["status"]["conditions"]
    found = next(one for one in conditions if one["type"] == "PodScheduled")
    assert found["reason"] == "Unschedulable"
    assert "untolerated taint" in found["message"]


def has_taint(cluster: LocalCluster, wanted: bool) -> None:
    keys = [key for key, _, _ in taints(cluster, cluster.real_node_name)]
    assert (TAINT in keys) is wanted


def test_new_pods_stay_away_and_running_ones_stay(node_cluster: LocalCluster, plugin: str) -> None:
    node = node_cluster.real_node_name
    with Operator(node_cluster, **SETTINGS):
        eventually(lambda: read_well(node_cluster, node), within=60)
        before = pod(node_cluster, plugin)
        condemn(node_cluster, "real", {"serial": serials(SMI)[0]}, action="Taint")
        eventually(lambda: has_taint(node_cluster, True))
        start(node_cluster, "newcomer", {"app": "newcomer"})
        eventually(lambda: is_unschedulable(node_cluster, "newcomer"))
        after = pod(node_cluster, plugin)
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert "deletionTimestamp" not in after["metadata"]
        assert after["status"]["containerStatuses"] == before["status"]["containerStatuses"]
        found = node_cluster.client.get(f"/api/v1/nodes/{node}")
        assert "unschedulable" not in found["spec"]

        lift(node_cluster, "real")
        eventually(lambda: has_taint(node_cluster, False))
        eventually(lambda: is_in_phase(node_cluster, "newcomer", "Running"), within=60)
        remove(node_cluster, "newcomer")
