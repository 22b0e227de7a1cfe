"""GPUInventory: the present and former GPUs of one node."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from gpuid_operator.api.conditions import Condition, ConditionStatus, ConditionType
from gpuid_operator.api.gpu import GPU, Fabric, GPUHealth, GPUState
from gpuid_operator.api.history import HistoryEntry, HistoryType, Seen
from gpuid_operator.api.meta import MAX_CHECK_OUTPUT, MAX_CHECKS, MAX_GPUS, MAX_HISTORY, MAX_SINKS
from gpuid_operator.api.sinks import Sink
from gpuid_operator.api.values import LongText, Model, Text, Time

__all__ = [
    "GPU",
    "CheckStatus",
    "Condition",
    "ConditionStatus",
    "ConditionType",
    "Fabric",
    "GPUHealth",
    "GPUState",
    "HistoryEntry",
    "HistoryType",
    "Inventory",
    "InventorySpec",
    "InventoryState",
    "InventoryStatus",
    "NodeInfo",
    "Seen",
    "SinkStatus",
    "Source",
]


class NodeInfo(Model):
    """Facts from the Node object."""

    name: Annotated[str, Field(max_length=253)]
    """Name of the Node."""
    uid: Text | None = None
    """metadata.uid of the Node; a different uid under the same name is a different node."""
    provider_id: Annotated[str | None, Field(alias="providerID", max_length=512)] = None
    """spec.providerID of the Node, which identifies the virtual machine."""
    machine: LongText = "na"
    """Last part of providerID, or `na` without one."""
    boot_id: Annotated[str | None, Field(alias="bootID", max_length=128)] = None
    """status.nodeInfo.bootID of the Node, which changes with each boot."""


class Source(Model):
    """Source of the facts: the container of the last successful read, or ResourceSlices."""

    namespace: Annotated[str | None, Field(max_length=63)] = None
    """Namespace of the pod."""
    pod: Annotated[str | None, Field(max_length=253)] = None
    """Name of the pod."""
    uid: Text | None = None
    """metadata.uid of the pod."""
    container: Annotated[str | None, Field(max_length=63)] = None
    """Name of the container."""
    container_id: Annotated[str | None, Field(alias="containerID", max_length=256)] = None
    """containerID from the status of the pod. A new containerID makes a read due."""
    resource_slices: bool | None = None
    """True if no read was successful yet, and product and driverVersion come from the
    ResourceSlices of gpu.nvidia.com instead; every other field of the source is then omitted."""


class SinkStatus(Model):
    """Delivery cursor of one sink."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the sink."""
    type: Text
    """Type of the sink, as in the spec. A sink with a new type is a new sink."""
    delivered_sequence: int = 0
    """Sequence number up to which the sink has received all entries."""
    pending: int = 0
    """Number of entries that the sink has not received yet."""
    last_delivery_time: Time | None = None
    """Last time the sink accepted a record of this node."""
    last_error: Annotated[str | None, Field(max_length=512)] = None
    """Error of the last delivery, as reported by the sink; omitted after a successful delivery."""
    since: Time | None = None
    """Time since which deliveries have failed; omitted after a successful delivery."""


class CheckStatus(Model):
    """Last result of one check."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the check."""
    passed: bool | None = None
    """Whether the last run exited with code 0."""
    transitions: int | None = None
    """Number of changes between pass and fail, including a failure at the first run."""
    recorded: int | None = None
    """Number of transitions that are in the history; written by the inventory instance."""
    command_digest: Annotated[str | None, Field(max_length=64)] = None
    """Digest of the command and where it ran; if it changes, the check runs at once."""
    exit_code: int | None = None
    """Exit code of the last run; omitted if the command did not exit by itself."""
    stdout: Annotated[str | None, Field(max_length=MAX_CHECK_OUTPUT)] = None
    """Standard output of the last run, truncated to 4 KiB."""
    stderr: Annotated[str | None, Field(max_length=MAX_CHECK_OUTPUT)] = None
    """Standard error of the last run, or why it failed to run, truncated to 4 KiB."""
    pod: Annotated[str | None, Field(max_length=320)] = None
    """Pod of the last run, as namespace/name."""
    restarts: int | None = None
    """Number of consecutive restarts of the pod because of this check."""
    last_restart_time: Time | None = None
    """Last time the operator restarted the pod because of this check."""
    last_run_time: Time | None = None
    """Time when the last run ended."""
    last_transition_time: Time | None = None
    """Last time `passed` changed."""


class InventoryState(StrEnum):
    PRESENT = "Present"
    DEPARTED = "Departed"


class InventorySpec(Model):
    """Settings for this node; the operator never writes them."""

    suspend: bool | None = None
    """Whether to suspend reads, checks and label writes for this node (default false)."""
    sinks: Annotated[list[Sink], Field(max_length=MAX_SINKS)] | None = None
    """Sinks of this node. A sink replaces the sink of the policy that has the same name; others are
    added."""


class InventoryStatus(Model):
    """Observed state of the GPUs of the node."""

    observed_generation: int | None = None
    """`metadata.generation` that this status is based on."""
    state: InventoryState | None = None
    """State of the node: Present, or Departed if it no longer exists."""
    sequence: int = 0
    """Sequence number of the newest history entry."""
    node: NodeInfo | None = None
    """Facts from the Node object."""
    source: Source | None = None
    """Source of the facts: the container of the last successful read, or ResourceSlices."""
    policy: Annotated[str | None, Field(max_length=253)] = None
    """Name of the policy that applies to the node; empty for the built-in policy."""
    last_read_time: Time | None = None
    """Time when the last successful read ended."""
    last_change_time: Time | None = None
    """Time of the newest history entry that is not `Sighted`."""
    last_handled_request: Annotated[str | None, Field(max_length=1024)] = None
    """Token of the annotation gpuid.github.com/requestedAt for which the read has ended."""
    driver_version: Text | None = None
    """Version of the kernel driver (nvidia-smi: driver_version, from R615 kmd_version). From
    ResourceSlices, it has no leading zeros: 580.65.6 for 580.65.06."""
    cuda_version: Text | None = None
    """Newest CUDA version that the driver supports (nvidia-smi: cuda_version, from R615
    cuda_umd_version)."""
    product: Annotated[str | None, Field(max_length=512)] = None
    """Unique products of the GPUs, separated by commas."""
    gpu_count: int | None = None
    """Number of GPUs, including lost ones."""
    serials: Annotated[list[Text], Field(max_length=MAX_GPUS)] | None = None
    """Unique serial numbers of the GPUs, sorted."""
    chassis: Annotated[list[Text], Field(max_length=MAX_GPUS)] | None = None
    """Unique chassis serial numbers of the GPUs, sorted."""
    gpus: Annotated[list[GPU], Field(max_length=MAX_GPUS)] | None = None
    """GPUs in PCI order; for a departed node, its last known GPUs."""
    history: Annotated[list[HistoryEntry], Field(max_length=MAX_HISTORY)] | None = None
    """History of the node, newest entry last."""
    sinks: Annotated[list[SinkStatus], Field(max_length=2 * MAX_SINKS)] | None = None
    """Delivery status of each sink."""
    checks: Annotated[list[CheckStatus], Field(max_length=MAX_CHECKS)] | None = None
    """Last results of the checks."""
    conditions: Annotated[list[Condition], Field(max_length=8)] | None = None
    """Conditions of the inventory: Ready, Delivered, Healthy, and where they apply ChecksPassed,
    AsExpected, Unique and Quarantined."""


class Inventory(Model):
    """A GPUInventory object."""

    name: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    created: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    spec: InventorySpec = InventorySpec()
    status: InventoryStatus = InventoryStatus()

    @classmethod
    def from_object(cls, body: dict[str, Any]) -> Inventory:
        """Read an API object. Raises pydantic.ValidationError for one that violates the CRD."""
        meta = body.get("metadata", {})
        return cls(
            name=meta["name"],
            uid=meta.get("uid", ""),
            generation=meta.get("generation", 0),
            resource_version=meta.get("resourceVersion", ""),
            created=meta.get("creationTimestamp"),
            labels=meta.get("labels") or {},
            annotations=meta.get("annotations") or {},
            spec=InventorySpec.model_validate(body.get("spec") or {}),
            status=InventoryStatus.model_validate(body.get("status") or {}),
        )
