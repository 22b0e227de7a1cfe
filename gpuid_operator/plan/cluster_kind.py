"""Kinds of clusters whose GPU nodes have no pod with nvidia-smi, and what to do there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTraits:
    """What a Node says about its cluster."""

    name: str
    labels: Mapping[str, str]
    os_image: str
    """status.nodeInfo.osImage; empty if the Node does not say."""


_READER: Final = "run reader pods (chart value reader.enabled"
_ADVICE: Final[tuple[tuple[Callable[[NodeTraits], bool], str], ...]] = (
    (
        lambda node: node.name.startswith("gk3-"),
        "GKE Autopilot permits neither commands in kube-system nor hostPath volumes for the driver,"
        " so its nodes cannot be read: use GKE Standard with the preset gke",
    ),
    (
        lambda node: node.labels.get("eks.amazonaws.com/compute-type") == "auto",
        f"EKS Auto Mode runs the device plugin on the host, not in a pod: {_READER}, as in"
        " examples/eks-auto-mode.yaml)",
    ),
    (
        lambda node: node.os_image.startswith("Bottlerocket"),
        f"Bottlerocket runs the device plugin on the host, not in a pod: {_READER}, as in"
        " examples/eks-auto-mode.yaml)",
    ),
    (
        lambda node: "kubernetes.azure.com/cluster" in node.labels,
        "AKS node pools with a managed GPU driver run the device plugin on the host, not in a pod:"
        f" {_READER}, as in examples/reader-default-runtime.yaml); elsewhere on AKS, install the"
        " device plugin (preset static-manifest) or the GPU Operator",
    ),
)
"""In this order: whether a node is of the kind, and what to do."""


def advice_for(node: NodeTraits) -> str | None:
    """What to do on a node without a target pod; None where its kind of cluster is not known."""
    return next((advice for matches, advice in _ADVICE if matches(node)), None)
