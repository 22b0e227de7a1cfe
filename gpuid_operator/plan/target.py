"""Targets: the pods in which the operator runs nvidia-smi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NVIDIA_SMI: Final = ("nvidia-smi", "-q", "-x")
GKE_NVIDIA_SMI: Final = "/usr/local/nvidia/bin/nvidia-smi"
"""The path on GKE, outside PATH; used when the container does not find the command's program."""


@dataclass(frozen=True, slots=True)
class Target:
    """A selector of pods. The operator uses the first target that has a pod on the node."""

    namespace: str
    selector: str
    """Label selector, as the API server takes it."""
    container: str | None = None
    """Container of the pod; the default container if the pod has no container of that name."""
    command: tuple[str, ...] = NVIDIA_SMI
    """Program and arguments; no shell is involved."""
