"""A real kubelet runs real containers, and tells what became of a command in them."""

from __future__ import annotations

import json
import ssl
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.smi import generate
from tests.node.smi_image import import_smi_image

IMAGE = "gpuid.local/simulated-plugin:test"
SMI = generate("gb200", node="real-node")


@pytest.fixture(scope="module")
def plugin(node_cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a DaemonSet on the real node whose containers have a simulated nvidia-smi."""
    import_smi_image(node_cluster, tmp_path_factory.mktemp("image"), IMAGE, SMI)
    pod: dict[str, Any] = {
        "nodeSelector": {"kubernetes.io/hostname": node_cluster.real_node_name},
        "hostNetwork": True,
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {
                "name": "main",
                "image": IMAGE,
                "imagePullPolicy": "Never",
                "securityContext": {
                    "runAsUser": 65532,
                    "readOnlyRootFilesystem": True,
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
            }
        ],
    }
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "real-plugin", "namespace": "gpu-operator"},
        "spec": {
            "selector": {"matchLabels": {"app": "real-plugin"}},
            "template": {"metadata": {"labels": {"app": "real-plugin"}}, "spec": pod},
        },
    }
    node_cluster.kubectl("apply", "-f", "-", input=json.dumps(manifest))
    node_cluster.kubectl(
        "rollout", "status", "-n", "gpu-operator", "daemonset/real-plugin", "--timeout=90s"
    )
    return "daemonset/real-plugin"


def test_exec_reads_what_the_container_prints(node_cluster: LocalCluster, plugin: str) -> None:
    done = node_cluster.kubectl("exec", "-n", "gpu-operator", plugin, "--", "nvidia-smi")
    assert done.stdout == SMI


def test_exec_returns_the_exit_code(node_cluster: LocalCluster, plugin: str) -> None:
    shell = ["/bin/sh", "-c", "id -u; exit 3"]
    done = node_cluster.kubectl("exec", "-n", "gpu-operator", plugin, "--", *shell, check=False)
    assert (done.returncode, done.stdout) == (3, "65532\n")


def test_a_missing_command_is_an_error_of_the_runtime(
    node_cluster: LocalCluster, plugin: str
) -> None:
    done = node_cluster.kubectl("exec", "-n", "gpu-operator", plugin, "--", "absent", check=False)
    assert done.returncode == 1
    assert "executable file not found" in done.stderr


def test_pods_stay_on_their_kind_of_node(node_cluster: LocalCluster, plugin: str) -> None:
    items = json.loads(node_cluster.kubectl("get", "pods", "-A", "-o", "json").stdout)["items"]
    places = {(item["metadata"]["labels"]["app"], item["spec"]["nodeName"]) for item in items}
    assert places == {
        ("real-plugin", node_cluster.real_node_name),
        ("nvidia-device-plugin-daemonset", "gpu-node-0000"),
    }


def test_a_pod_finds_and_trusts_the_apiserver(
    node_cluster: LocalCluster, plugin: str, tmp_path: Path
) -> None:
    """With what the pod has; the request is made here, for want of a client: the network is one."""
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    address = "$KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT"
    script = f"echo {address}; cat {folder}/token; echo; cat {folder}/ca.crt"
    shell = ["/bin/sh", "-c", script]
    done = node_cluster.kubectl("exec", "-n", "gpu-operator", plugin, "--", *shell)
    address, token, authority = done.stdout.split("\n", 2)
    host, port = address.split()
    request = urllib.request.Request(
        f"https://{host}:{port}/apis/authentication.k8s.io/v1/selfsubjectreviews",
        method="POST",
        data=b'{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}',
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    context = ssl.create_default_context(cadata=authority)
    with urllib.request.urlopen(request, context=context, timeout=10) as answer:
        user = json.load(answer)["status"]["userInfo"]["username"]
    assert user == "system:serviceaccount:gpu-operator:default"
