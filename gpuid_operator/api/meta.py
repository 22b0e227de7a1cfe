"""Public names and limits: the API group, label prefixes, annotations, field managers."""

from __future__ import annotations

from typing import Final

GROUP: Final = "gpuid.github.com"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

INVENTORY_KIND: Final = "GPUInventory"
INVENTORY_PLURAL: Final = "gpuinventories"
POLICY_KIND: Final = "GPUInventoryPolicy"
POLICY_PLURAL: Final = "gpuinventorypolicies"

QUARANTINE_KIND: Final = "GPUQuarantine"
QUARANTINE_PLURAL: Final = "gpuquarantines"

QUARANTINE_TAINT: Final = f"{GROUP}/quarantined"
"""Key of the taint on nodes with a quarantined GPU; its value is the name of the quarantine."""

REQUESTED_AT: Final = f"{GROUP}/requestedAt"
"""Annotation that users set on a GPUInventory; any new token requests a read."""

SERIAL_LABEL: Final = f"serial.{GROUP}"
UUID_LABEL: Final = f"uuid.{GROUP}"
CHASSIS_LABEL: Final = f"chassis.{GROUP}"
"""Prefixes of the look-up labels of a GPUInventory; the name after the slash is the identifier."""

LOOKUP_PREFIXES: Final = (SERIAL_LABEL, UUID_LABEL, CHASSIS_LABEL)

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "gpuid-operator"
"""Field manager of the inventory instance, and the value of the managed-by label."""

SINK_SECRET_LABEL: Final = f"{GROUP}/sink"
ALLOWED_HOSTS_ANNOTATION: Final = f"{GROUP}/allowed-hosts"
ENVIRONMENT_SECRET: Final = "environment"  # noqa: S105 - a name
"""Secret name by which the sink of the built-in policy refers to environment variables."""

GPU_RESOURCE: Final = "nvidia.com/gpu"
"""The extended resource whose capacity shows that a node has GPUs."""

GPU_PRESENT_LABEL: Final = "nvidia.com/gpu.present"
"""Label of nodes with GPUs, with the value `true`: from the GPU Operator and GPU Feature
Discovery."""

DRA_DRIVER: Final = "gpu.nvidia.com"
"""NVIDIA's DRA driver for GPUs, as ResourceSlices name it."""

MAX_GPUS: Final = 64
MAX_PRODUCTS: Final = 16
MAX_DRIVERS: Final = 16
MAX_HISTORY: Final = 500
MAX_SINKS: Final = 16
MAX_CHECKS: Final = 16
MAX_CHECK_OUTPUT: Final = 4096
"""Maximum size of stdout and of stderr of a check in the status, in bytes."""
MAX_QUARANTINES_PER_GPU: Final = 8
"""Quarantines that the status of a GPU names, the first ones by name."""
MAX_QUARANTINE_PARTS: Final = 64
MAX_QUARANTINE_MATCHES: Final = 256
MAX_FROM_TO: Final = 128
MAX_MESSAGE: Final = 256
