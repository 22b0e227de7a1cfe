"""Targets: the pods in which the operator runs nvidia-smi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NVIDIA_SMI: Final = ("nvidia-smi", "-q", "-x")
GKE_NVIDIA_SMI: Final = "/usr/local/nvidia/bin/nvidia-smi"
"""The path on GKE, outside PATH; used when the container does not find the command's program."""


@dataclass(frozen=True, slots=True)
class Target:
    """A selector of pods, and how to read a node in them. `choose` says which target a node has."""

    namespace: str
    selector: str
    """Label selector, as the API server takes it."""
    container: str | None = None
    """Container of the pod; the default container if the pod has no container of that name."""
    command: tuple[str, ...] = NVIDIA_SMI
    """Program and arguments. The operator adds no shell."""
    preset: str | None = None
    """Name of the preset that the target is part of. A pod without its container is then no target,
    and the command has no other path."""
