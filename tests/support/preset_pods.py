"""The pods of well-known installations, as their own manifests label them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class InstalledPod:
    """A pod of an installation on a GPU node."""

    name: str
    preset: str
    """The preset that finds it."""
    namespace: str
    labels: dict[str, str]
    containers: tuple[str, ...]
    """The first is the one with nvidia-smi."""


INSTALLED: Final = (
    InstalledPod(
        "driver",
        "gpu-operator",
        "gpu-operator",
        {"app": "nvidia-gpu-driver-ubuntu24.04", "app.kubernetes.io/component": "nvidia-driver"},
        ("nvidia-driver-ctr", "openshift-driver-toolkit-ctr"),
    ),
    InstalledPod(
        "plugin",
        "gpu-operator",
        "gpu-operator",
        {"app": "nvidia-device-plugin-daemonset"},
        ("nvidia-device-plugin", "config-manager"),
    ),
    InstalledPod(
        "manifest",
        "static-manifest",
        "kube-system",
        {"name": "nvidia-device-plugin-ds"},
        ("nvidia-device-plugin-ctr",),
    ),
    InstalledPod(
        "plugin-chart",
        "static-manifest",
        "nvidia-device-plugin",
        {"app.kubernetes.io/name": "nvidia-device-plugin", "app.kubernetes.io/instance": "nvdp"},
        ("nvidia-device-plugin-ctr",),
    ),
    InstalledPod(
        "gke",
        "gke",
        "kube-system",
        {"k8s-app": "nvidia-gpu-device-plugin"},
        ("nvidia-gpu-device-plugin",),
    ),
    InstalledPod(
        "dra-of-gpu-operator",
        "dra-driver",
        "gpu-operator",
        {
            "app": "nvidia-dra-driver-kubelet-plugin",
            "app.kubernetes.io/name": "nvidia-dra-driver",
            "app.kubernetes.io/component": "nvidia-dra-driver-kubelet-plugin",
        },
        ("gpus", "compute-domains"),
    ),
    InstalledPod(
        "dra",
        "dra-driver",
        "dra-driver-nvidia-gpu",
        {"dra-driver-nvidia-gpu-component": "kubelet-plugin"},
        ("gpus", "compute-domains"),
    ),
    InstalledPod(
        "dra-25.12",
        "dra-driver",
        "nvidia-dra-driver-gpu",
        {"nvidia-dra-driver-gpu-component": "kubelet-plugin"},
        ("compute-domains",),
    ),
    InstalledPod(
        "dcgm",
        "dcgm-exporter",
        "gpu-operator",
        {"app": "nvidia-dcgm-exporter"},
        ("nvidia-dcgm-exporter",),
    ),
    InstalledPod(
        "dcgm-dra",
        "dcgm-exporter",
        "gpu-operator",
        {"app": "nvidia-dcgm-exporter-dra"},
        ("nvidia-dcgm-exporter-dra",),
    ),
    InstalledPod(
        "dcgm-chart",
        "dcgm-exporter",
        "dcgm-exporter",
        {"app.kubernetes.io/name": "dcgm-exporter"},
        ("exporter",),
    ),
    InstalledPod(
        "reader",
        "reader",
        "gpuid",
        {
            "app.kubernetes.io/name": "gpuid-operator",
            "app.kubernetes.io/component": "reader",
            "app.kubernetes.io/part-of": "gpuid-operator",
        },
        ("reader",),
    ),
)

TRAPS: Final = (
    InstalledPod(
        "validator",
        "",
        "gpu-operator",
        {"app": "nvidia-operator-validator"},
        ("nvidia-operator-validator",),
    ),
    InstalledPod(
        "dra-validator",
        "",
        "gpu-operator",
        {
            "app": "nvidia-operator-validator",
            "app.kubernetes.io/name": "nvidia-dra-validator",
            "app.kubernetes.io/component": "nvidia-dra-validator",
        },
        ("nvidia-dra-validator",),
    ),
    InstalledPod(
        "dra-validator-as-plugin",
        "",
        "gpu-operator",
        {
            "app": "nvidia-device-plugin-daemonset",
            "app.kubernetes.io/component": "nvidia-dra-validator",
        },
        ("nvidia-device-plugin",),
    ),
    InstalledPod(
        "validator-with-labels-of-all",
        "",
        "kube-system",
        {
            "app": "nvidia-operator-validator",
            "name": "nvidia-device-plugin-ds",
            "app.kubernetes.io/name": "nvidia-device-plugin",
        },
        ("nvidia-device-plugin-ctr",),
    ),
    InstalledPod(
        "other-container",
        "",
        "gpu-operator",
        {"app": "nvidia-device-plugin-daemonset"},
        ("nvidia-operator-validator",),
    ),
)
"""Pods that no preset may find, although they carry labels of those that one finds."""
