"""Targets: in which pods nvidia-smi is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NVIDIA_SMI: Final = ("nvidia-smi", "-q", "-x")
GKE_NVIDIA_SMI: Final = "/usr/local/nvidia/bin/nvidia-smi"
"""Where GKE keeps it, outside PATH; tried where the command's own program is not found."""


@dataclass(frozen=True, slots=True)
class Target:
    """One place to look for a pod of a node; of several targets the first that has one counts."""

    namespace: str
    selector: str
    """Label selector, as the API server takes it."""
    container: str | None = None
    """Container of the pod; where the pod has none of that name, its default one."""
    command: tuple[str, ...] = NVIDIA_SMI
    """Program and arguments, executed without a shell."""
