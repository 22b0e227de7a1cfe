"""GPUInventory: the GPUs behind one node, now and before."""

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
    """Facts of the Node object."""

    name: Annotated[str, Field(max_length=253)]
    """Name of the Node."""
    uid: Text | None = None
    """metadata.uid of the Node; another one under the same name is another node."""
    provider_id: Annotated[str | None, Field(alias="providerID", max_length=512)] = None
    """spec.providerID of the Node: the virtual machine."""
    machine: LongText = "na"
    """Last part of providerID, `na` where there is none."""
    boot_id: Annotated[str | None, Field(alias="bootID", max_length=128)] = None
    """status.nodeInfo.bootID of the Node: changes with each boot."""


class Source(Model):
    """What the last good read was taken from."""

    namespace: Annotated[str, Field(max_length=63)]
    """Namespace of the pod."""
    pod: Annotated[str, Field(max_length=253)]
    """Name of the pod."""
    uid: Text | None = None
    """metadata.uid of the pod."""
    container: Annotated[str, Field(max_length=63)]
    """Name of the container."""
    container_id: Annotated[str | None, Field(alias="containerID", max_length=256)] = None
    """containerID of the pod's status; a container that was read is not read again for it."""


class SinkStatus(Model):
    """The cursor of one sink: what of the history it has had."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the sink."""
    type: Text
    """stdout, http, postgres or s3; under another type it is another sink."""
    delivered_sequence: int = 0
    """Number of the newest entry that the sink has, and all before it."""
    pending: int = 0
    """Entries that the sink still has to get."""
    last_delivery_time: Time | None = None
    """When the sink last took a record of this node."""
    last_error: Annotated[str | None, Field(max_length=512)] = None
    """What went wrong at the last attempt, in the sink's own words; absent when all is well."""
    since: Time | None = None
    """Since when deliveries fail; absent when all is well."""


class CheckStatus(Model):
    """The last result of one check."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the check."""
    passed: bool | None = None
    """Whether the last run ended with exit code 0."""
    transitions: int | None = None
    """Number of changes between pass and fail, the first failure included."""
    recorded: int | None = None
    """How many of the transitions are in history already; written by the inventory instance."""
    command_digest: Annotated[str | None, Field(max_length=64)] = None
    """Digest of what was run and where; after a change of either it is run at once."""
    exit_code: int | None = None
    """Exit code of the last run; absent where it did not end by itself."""
    stdout: Annotated[str | None, Field(max_length=MAX_CHECK_OUTPUT)] = None
    """Standard output of the last run, cut at 4 KiB."""
    stderr: Annotated[str | None, Field(max_length=MAX_CHECK_OUTPUT)] = None
    """Standard error of the last run, or why it could not run, cut at 4 KiB."""
    pod: Annotated[str | None, Field(max_length=320)] = None
    """namespace/pod of the last run."""
    restarts: int | None = None
    """Restarts of the pod in a row that this check asked for."""
    last_restart_time: Time | None = None
    """When the check last had its pod restarted."""
    last_run_time: Time | None = None
    """When the last run ended."""
    last_transition_time: Time | None = None
    """When `passed` last changed."""


class InventoryState(StrEnum):
    PRESENT = "Present"
    DEPARTED = "Departed"


class InventorySpec(Model):
    """What the user asks of this one node; the operator never writes it."""

    suspend: bool | None = None
    """Stop reads, checks and label writes of this node (default false)."""
    sinks: Annotated[list[Sink], Field(max_length=MAX_SINKS)] | None = None
    """Sinks of this node: one of the same name replaces the policy's, others are added."""


class InventoryStatus(Model):
    """What the operator knows."""

    observed_generation: int | None = None
    """Generation of the spec that this status is about."""
    state: InventoryState | None = None
    """Present, or Departed: the node is gone."""
    sequence: int = 0
    """Number of the newest history entry."""
    node: NodeInfo | None = None
    """Facts of the Node object."""
    source: Source | None = None
    """What the last good read was taken from."""
    policy: Annotated[str | None, Field(max_length=253)] = None
    """Name of the policy in force; empty for the built-in one."""
    last_read_time: Time | None = None
    """When the last good read ended."""
    last_change_time: Time | None = None
    """Time of the newest history entry that is not `Sighted`."""
    last_handled_request: Annotated[str | None, Field(max_length=1024)] = None
    """The token of the annotation gpuid.github.com/requestedAt whose read has ended."""
    driver_version: Text | None = None
    """Version of the kernel driver (nvidia-smi: driver_version, from R615 kmd_version)."""
    cuda_version: Text | None = None
    """CUDA version of the driver (nvidia-smi: cuda_version, from R615 cuda_umd_version)."""
    product: Annotated[str | None, Field(max_length=512)] = None
    """Products of the GPUs, unique, joined by a comma."""
    gpu_count: int | None = None
    """Number of GPUs, the lost ones included."""
    serials: Annotated[list[Text], Field(max_length=MAX_GPUS)] | None = None
    """Serials of the GPUs, unique, sorted."""
    chassis: Annotated[list[Text], Field(max_length=MAX_GPUS)] | None = None
    """Chassis serials of the GPUs, unique, sorted."""
    gpus: Annotated[list[GPU], Field(max_length=MAX_GPUS)] | None = None
    """The GPUs in PCI order; of a departed node, as last known."""
    history: Annotated[list[HistoryEntry], Field(max_length=MAX_HISTORY)] | None = None
    """What changed, newest last."""
    sinks: Annotated[list[SinkStatus], Field(max_length=2 * MAX_SINKS)] | None = None
    """Where the delivery to each sink stands."""
    checks: Annotated[list[CheckStatus], Field(max_length=MAX_CHECKS)] | None = None
    """Results of the checks."""
    conditions: Annotated[list[Condition], Field(max_length=8)] | None = None
    """Ready, Delivered, Healthy, ChecksPassed."""


class Inventory(Model):
    """A GPUInventory as the operator holds it."""

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
        """Read an API object. Raises pydantic.ValidationError for one that the CRD would refuse."""
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
