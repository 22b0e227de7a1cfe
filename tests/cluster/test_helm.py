"""The life of an installation on a real API server: upgrades, and what it leaves behind.

The pods are simulated; tests/node/test_install.py runs real ones.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuid_operator.localcluster import LocalCluster
from tests.support.crds import CRDS, delete_crds
from tests.support.gotools import go_tool, prometheus_operator_crds
from tests.support.manifests import CHART, DEPLOYMENT, rights
from tests.support.objects_in_cluster import make_namespace
from tests.support.operators import eventually

OLD = Path(__file__).parent.parent / "fixtures" / "charts" / "0.0.1"
INVENTORY = "/apis/gpuid.github.com/v1alpha1/gpuinventories/kept"
HISTORY = [{"sequence": 1, "time": "2026-06-07T10:30:45Z", "type": "GPUAdded", "uuid": "GPU-1"}]


@pytest.fixture(scope="module")
def cluster(local_cluster: Callable[..., LocalCluster]) -> LocalCluster:
    cluster = local_cluster(nodes=1)
    # It has no other node that the pods could go to.
    cluster.kubectl("taint", "nodes", "--all", "nvidia.com/gpu-")
    return cluster


class Helm:
    """One version of Helm, on one cluster."""

    def __init__(self, name: str, cluster: LocalCluster) -> None:
        self._program = str(go_tool(name))
        self._kubeconfig = f"--kubeconfig={cluster.kubeconfig}"

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [self._program, *arguments, "--namespace", "gpuid", self._kubeconfig]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done


@pytest.fixture(params=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest, cluster: LocalCluster) -> Helm:
    """Helm on a cluster without CRDs."""
    delete_crds(cluster)
    return Helm(request.param, cluster)


def properties(cluster: LocalCluster, name: str) -> set[str]:
    """Fields of status that the served CRD has."""
    crd = json.loads(cluster.kubectl("get", "crd", name, "-o", "json").stdout)
    (version,) = crd["spec"]["versions"]
    return set(version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"])


def leftovers(cluster: LocalCluster) -> set[str]:
    """Objects of the release that are still there."""
    kinds = "all,sa,roles,rolebindings,clusterroles,clusterrolebindings,pdb,networkpolicies,crd"
    listed = cluster.kubectl(
        *("get", kinds, "-A", "-o", "name"), *("-l", "app.kubernetes.io/managed-by=Helm")
    )
    return set(listed.stdout.split())


def test_upgrade_from_an_old_chart_and_uninstall(cluster: LocalCluster, helm: Helm) -> None:
    helm("install", "gpuid-operator", str(OLD), "--wait", "--timeout=60s")
    assert "gpus" not in properties(cluster, CRDS[0])

    def create() -> dict[str, Any]:
        kept = {
            "apiVersion": "gpuid.github.com/v1alpha1",
            "kind": "GPUInventory",
            "metadata": {"name": "kept"},
        }
        done = cluster.kubectl("apply", "-f", "-", input=json.dumps(kept), check=False)
        assert done.returncode == 0, done.stderr
        inventory: dict[str, Any] = cluster.client.get(INVENTORY)
        return inventory

    # A new CRD is served a moment after it is there.
    uid = eventually(create)["metadata"]["uid"]
    patch = {"status": {"state": "Present", "gpuCount": 1, "sequence": 1, "history": HISTORY}}
    cluster.kubectl(
        *("patch", "gpuinventory", "kept", "--subresource=status", "--type=merge"),
        *("-p", json.dumps(patch)),
    )

    helm("upgrade", "gpuid-operator", str(CHART), "--wait", "--timeout=60s")
    assert "gpus" in properties(cluster, CRDS[0])
    cluster.kubectl("wait", "--for=condition=Established", "crd", CRDS[1], "--timeout=30s")
    after = cluster.client.get(INVENTORY)
    assert (after["metadata"]["uid"], after["status"]["history"]) == (uid, HISTORY)
    deployments = cluster.kubectl("get", "deployment", "-n", "gpuid", "-o", "name").stdout.split()
    assert deployments == ["deployment.apps/gpuid-operator"]

    helm("uninstall", "gpuid-operator", "--wait", "--timeout=60s")
    crds = {f"customresourcedefinition.apiextensions.k8s.io/{name}" for name in CRDS}

    def only_the_crds() -> None:
        # ReplicaSets and pods go after their Deployment.
        assert leftovers(cluster) == crds

    eventually(only_the_crds)
    assert cluster.client.get(INVENTORY)["status"]["history"] == HISTORY

    # And once more: a release of the same name finds the CRDs that it left.
    helm("install", "gpuid-operator", str(CHART), "--wait", "--timeout=60s")
    assert cluster.client.get(INVENTORY)["metadata"]["uid"] == uid
    helm("uninstall", "gpuid-operator", "--wait", "--timeout=60s")
    # Nothing holds what is deleted: no finalizer, neither on the kinds nor on the objects.
    delete_crds(cluster)

    def nothing() -> None:
        assert leftovers(cluster) == set()

    eventually(nothing)


def test_a_second_release_leaves_the_crds_to_the_first(cluster: LocalCluster, helm: Helm) -> None:
    """A check runner beside the release that keeps the inventory."""
    helm("install", "gpuid-operator", str(CHART))
    example = str(CHART / "examples" / "kernel-parameter.yaml")
    helm("install", "kernel-parameter", str(CHART), "--values", example)
    helm("uninstall", "kernel-parameter")
    kinds = cluster.kubectl("get", "crd", *CRDS, "-o", "name").stdout.split()
    assert len(kinds) == len(CRDS)
    refused = helm("install", "other", str(CHART), check=False)
    assert refused.returncode != 0
    assert "meta.helm.sh/release-name" in refused.stderr
    helm("uninstall", "gpuid-operator")


def test_a_monitor_waits_for_the_prometheus_operator(cluster: LocalCluster, helm: Helm) -> None:
    """The release is installed without its kinds, and has the object after they came."""

    def scraped_by() -> tuple[str, list[str]]:
        get = ("get", "-n", "gpuid", "-o", "json")
        service = json.loads(cluster.kubectl(*get, "service", "gpuid-operator").stdout)
        found = cluster.kubectl(*get, "servicemonitors", check=False)
        items = json.loads(found.stdout)["items"] if found.returncode == 0 else []
        annotations = service["metadata"].get("annotations", {})
        names = [item["metadata"]["name"] for item in items]
        return annotations.get("prometheus.io/scrape", "no"), names

    enabled = ("gpuid-operator", str(CHART), "--set", "serviceMonitor.enabled=true")
    notes = helm("install", *enabled).stdout
    assert "does not serve the kind ServiceMonitor" in notes
    assert scraped_by() == ("true", [])
    files = [f"--filename={path}" for path in prometheus_operator_crds()]
    cluster.kubectl("create", *files)
    try:
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *files)
        assert "ServiceMonitor" not in helm("upgrade", *enabled).stdout
        assert scraped_by() == ("no", ["gpuid-operator"])
        helm("uninstall", "gpuid-operator", "--wait", "--timeout=60s")
    finally:
        cluster.kubectl("delete", *files)


def test_a_release_in_one_namespace_has_its_operator_in_another(
    cluster: LocalCluster, helm: Helm
) -> None:
    """As for a parent chart whose subcharts are in namespaces of their own."""
    make_namespace(cluster, "elsewhere")
    override = ("--set", "namespaceOverride=elsewhere", "--wait", "--timeout=60s")
    helm("install", "gpuid-operator", str(CHART), *override)
    found = cluster.kubectl("get", "deployment", "-A", "-l", "app.kubernetes.io/managed-by=Helm")
    assert [line.split()[0] for line in found.stdout.splitlines()[1:]] == ["elsewhere"]
    helm("uninstall", "gpuid-operator", "--wait", "--timeout=60s")
    cluster.kubectl("delete", "namespace", "elsewhere")


def test_a_missing_target_namespace_is_named(cluster: LocalCluster, helm: Helm) -> None:
    targets = "targets[0].namespace=absent,targets[0].selector=a=b"
    done = helm("install", "gpuid-operator", str(CHART), "--set", targets, check=False)
    assert done.returncode != 0
    assert 'namespaces "absent" not found' in done.stderr
    helm("uninstall", "gpuid-operator")


def daemonset(cluster: LocalCluster, namespace: str, labels: dict[str, str]) -> None:
    """A DaemonSet of an installation, which runs nowhere."""
    make_namespace(cluster, namespace)
    body = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "preset", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeSelector": {"no": "node"},
                    "containers": [{"name": "c", "image": "i"}],
                },
            },
        },
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(body))


def test_auto_gets_rights_where_there_is_something_to_read(
    cluster: LocalCluster, helm: Helm
) -> None:
    def places(*options: str) -> list[str]:
        words = ("install", "any", str(CHART), "--dry-run=server", "--output=json", *options)
        release = json.loads(helm(*words).stdout)
        objects = [item for item in yaml.safe_load_all(release["manifest"]) if item]
        granted = sorted({item[0] for item in rights(objects) if item[2] == "pods/exec"})
        if not options:
            notes = release["info"]["notes"]
            assert f"may run commands in these namespaces: {', '.join(granted)}." in notes
        return granted

    # kube-system and the operator's own namespace are there, but have nothing of a preset.
    assert places() == ["gpu-operator"]
    daemonset(cluster, "kube-system", {"k8s-app": "kube-proxy"})
    daemonset(cluster, "monitoring", {"app.kubernetes.io/name": "dcgm-exporter"})
    assert places() == ["gpu-operator"]
    cluster.kubectl("delete", "daemonset", "-n", "kube-system", "preset")
    daemonset(cluster, "kube-system", {"k8s-app": "nvidia-gpu-device-plugin"})
    make_namespace(cluster, "nvidia-dra-driver-gpu")
    assert places() == ["gpu-operator", "kube-system", "nvidia-dra-driver-gpu"]
    # What the user names needs no such sign.
    cluster.kubectl("delete", "daemonset", "-n", "kube-system", "preset")
    assert places("--set", "targets[0].preset=static-manifest") == ["kube-system"]
    named = "targets[0].preset=dcgm-exporter,targets[0].namespace=monitoring"
    assert places("--set", named) == ["monitoring"]
    # Nothing of a preset is there: the release works, and its conditions say what to do.
    assert places("--set", "targets[0].preset=dra-driver") == [
        "gpu-operator",
        "nvidia-dra-driver-gpu",
    ]
    cluster.kubectl("delete", "namespace", "nvidia-dra-driver-gpu", "monitoring")


def test_kustomize_removal_by_label_keeps_the_inventories(cluster: LocalCluster) -> None:
    """As docs/install.md has it."""
    delete_crds(cluster)
    base = str(DEPLOYMENT / "base")
    cluster.kubectl("apply", "-k", base)
    cluster.kubectl("delete", "-k", base, "-l", "app.kubernetes.io/instance=gpuid")
    cluster.kubectl("get", "namespace", "gpuid")
    cluster.kubectl("get", "crd", *CRDS)
    kinds = "deployments,services,serviceaccounts,roles,rolebindings,clusterroles"
    left = cluster.kubectl("get", kinds, "-A", "-l", "app=gpuid", "-o", "name").stdout
    assert left == ""
