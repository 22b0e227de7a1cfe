"""The objects of a simulated GPU node: the Node itself, and the device plugin's DaemonSet."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

TARGET_NAMESPACE: Final = "gpu-operator"
OPERATOR_NAMESPACE: Final = "gpuid"
TARGET_LABELS: Final = {"app": "nvidia-device-plugin-daemonset"}
TARGET_CONTAINER: Final = "nvidia-device-plugin"
SIMULATED: Final = {"kwok.x-k8s.io/node": "fake"}
"""Label of the nodes that KWOK plays; a real node does not have it."""
_IMAGE: Final = "nvcr.io/nvidia/k8s-device-plugin:v0.18.0"


def node_name(index: int) -> str:
    return f"gpu-node-{index:04d}"


def node(
    name: str,
    *,
    gpus: int,
    product: str,
    instance_type: str,
    provider_id: str | None,
    labels: Mapping[str, str],
    object_bytes: int | None,
) -> dict[str, Any]:
    """A Node like one of an EKS GPU node group, new-born: its boot id is another each time.

    `object_bytes` fills it with what makes real Nodes large (a list of images, the labels and
    annotations of other operators), up to about that size.
    """
    digest = hashlib.sha256(name.encode()).hexdigest()
    zone = f"us-east-1{'abcd'[int(digest[0], 16) % 4]}"
    resources = {
        "cpu": "192",
        "memory": "2097152Mi",
        "pods": "250",
        "ephemeral-storage": "1000Gi",
        "nvidia.com/gpu": str(gpus),
    }
    result: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "node.kubernetes.io/instance-type": instance_type,
                "topology.kubernetes.io/region": "us-east-1",
                "topology.kubernetes.io/zone": zone,
                "eks.amazonaws.com/nodegroup": "gpu",
                "nvidia.com/gpu.present": "true",
                "nvidia.com/gpu.count": str(gpus),
                "nvidia.com/gpu.product": re.sub(r"[^A-Za-z0-9.]+", "-", product).strip("-.")[:63],
            }
            | SIMULATED
            | dict(labels),
        },
        "spec": {
            "providerID": provider_id or f"aws:///{zone}/i-{digest[:17]}",
            "taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
        },
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": str(uuid.uuid4()),
                "containerRuntimeVersion": "containerd://2.1.5",
                "kernelVersion": "6.12.40-64.114.amzn2023.x86_64",
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.36.3-eks-113cf36",
                "machineID": digest[:32],
                "operatingSystem": "linux",
                "osImage": "Amazon Linux 2023.9.20251105",
                "systemUUID": str(uuid.UUID(digest[:32])),
            },
        },
    }
    if object_bytes:
        _pad(result, object_bytes)
    return result


def _pad(node: dict[str, Any], size: int) -> None:
    """Add images, as the kubelet does, until the object is about this large."""
    missing = size - len(json.dumps(node)) - 2600  # conditions and managed fields come later
    images: list[dict[str, Any]] = []
    while missing > 0:
        index = len(images)
        repository = f"000000000000.dkr.ecr.us-east-1.amazonaws.com/platform/component-{index:03d}"
        digest = hashlib.sha256(repository.encode()).hexdigest()
        names = [f"{repository}@sha256:{digest}", f"{repository}:v1.{index}.0-build.{digest[:40]}"]
        images.append({"names": names, "sizeBytes": 100_000_000 + index})
        missing -= len(json.dumps(images[-1]))
    node["status"]["images"] = images


def namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def device_plugin() -> dict[str, Any]:
    """The DaemonSet whose pods the operator reads; it selects simulated nodes only."""
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": "nvidia-device-plugin-daemonset",
            "namespace": TARGET_NAMESPACE,
            "labels": TARGET_LABELS,
        },
        "spec": {
            "selector": {"matchLabels": TARGET_LABELS},
            "updateStrategy": {"type": "OnDelete"},
            "template": {
                "metadata": {
                    "labels": TARGET_LABELS,
                    "annotations": {"kubectl.kubernetes.io/default-container": TARGET_CONTAINER},
                },
                "spec": {
                    "nodeSelector": SIMULATED | {"nvidia.com/gpu.present": "true"},
                    "tolerations": [{"operator": "Exists"}],
                    "priorityClassName": "system-node-critical",
                    "automountServiceAccountToken": False,
                    "containers": [{"name": TARGET_CONTAINER, "image": _IMAGE}],
                },
            },
        },
    }
