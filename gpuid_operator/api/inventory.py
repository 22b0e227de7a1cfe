"""GPUInventory: the GPUs behind one node, now and before."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from gpuid_operator.api.meta import (
    MAX_CHECK_OUTPUT,
    MAX_CHECKS,
    MAX_FROM_TO,
    MAX_GPUS,
    MAX_HISTORY,
    MAX_MESSAGE,
    MAX_SINKS,
)
from gpuid_operator.api.sinks import Sink
from gpuid_operator.api.values import Model, Time

Text = Annotated[str, Field(max_length=128)]
_Long = Annotated[str, Field(max_length=512)]


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ConditionType(StrEnum):
    """Conditions of a GPUInventory."""

    READY = "Ready"
    DELIVERED = "Delivered"
    HEALTHY = "Healthy"
    CHECKS_PASSED = "ChecksPassed"


class Condition(Model):
    """A standard Kubernetes condition."""

    type: Annotated[str, Field(max_length=64)]
    """Name of the condition."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z]([A-Za-z0-9_]*)$")]
    """One word for programs."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """A sentence for people: what was tried, what came back, what to do."""
    observed_generation: int | None = None
    """Generation of the spec that the condition is about."""
    last_transition_time: Time
    """When `status` last changed."""


class NodeInfo(Model):
    """Facts of the Node object."""

    name: Annotated[str, Field(max_length=253)]
    """Name of the Node."""
    uid: Text | None = None
    """metadata.uid of the Node; another one under the same name is another node."""
    provider_id: Annotated[str | None, Field(alias="providerID", max_length=512)] = None
    """spec.providerID of the Node: the virtual machine."""
    machine: _Long = "na"
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


class GPUState(StrEnum):
    OK = "OK"
    LOST = "Lost"
    RESET_REQUIRED = "ResetRequired"
    UNKNOWN = "Unknown"


class Fabric(Model):
    """NVLink fabric (nvidia-smi: fabric); absent where the GPU has not joined one."""

    cluster_uuid: Annotated[str | None, Field(alias="clusterUUID", max_length=128)] = None
    """UUID of the NVLink domain (nvidia-smi: fabric/clusterUUID)."""
    clique_id: Annotated[int | None, Field(alias="cliqueID")] = None
    """Clique in the NVLink domain (nvidia-smi: fabric/cliqueId)."""


class GPUHealth(Model):
    """Health of the physical GPU, as far as nvidia-smi tells it."""

    recovery_action: Text | None = None
    """What the driver recommends, such as None or Reset (nvidia-smi: gpu_recovery_action)."""
    ecc_uncorrected: int | None = None
    """Uncorrectable ECC errors over the GPU's life, a count (nvidia-smi: ecc_errors/aggregate)."""
    remapped_rows_pending: bool | None = None
    """A row remap waits for a reset (nvidia-smi: remapped_rows/remapped_row_pending)."""
    remapped_rows_failed: bool | None = None
    """A row remap failed (nvidia-smi: remapped_rows/remapped_row_failure)."""
    retired_pages_pending: bool | None = None
    """A page retirement waits for a reboot (nvidia-smi: retired_pages/pending_retirement)."""


class GPU(Model):
    """One physical GPU. A fact that nvidia-smi does not give is an absent field."""

    uuid: Text | None = None
    """Globally unique identifier, `GPU-…` (nvidia-smi: uuid): the GPU's identity."""
    serial: Text | None = None
    """Serial number of the board (nvidia-smi: serial); GPUs of one board share it."""
    pci_address: Text | None = None
    """Domain:bus:device.function, upper-case, 8-digit domain (nvidia-smi: pci_bus_id)."""
    index: int | None = None
    """Position in the output of nvidia-smi, from 0 (its -i option)."""
    product: Text | None = None
    """Marketing name (nvidia-smi: product_name)."""
    architecture: Text | None = None
    """Such as Hopper (nvidia-smi: product_architecture)."""
    board_part_number: Text | None = None
    """Part number of the board (nvidia-smi: board_part_number; gpu_part_number up to DTD v11)."""
    gpu_part_number: Text | None = None
    """Part number of the chip (nvidia-smi: gpu_part_number, from DTD v12)."""
    vbios: Text | None = None
    """Version of the video BIOS (nvidia-smi: vbios_version)."""
    chassis_serial: Text | None = None
    """Serial number of the chassis; of an NVL72 the rack's (nvidia-smi: chassis_serial_number)."""
    slot: int | None = None
    """Slot in the chassis (nvidia-smi: platformInfo/slot_number)."""
    tray: int | None = None
    """Tray in the chassis (nvidia-smi: platformInfo/tray_index)."""
    host_id: Annotated[int | None, Field(alias="hostID")] = None
    """Host in the chassis (nvidia-smi: platformInfo/host_id)."""
    module_id: Annotated[int | None, Field(alias="moduleID")] = None
    """Module on the host (nvidia-smi: platformInfo/module_id, before R570 gpu_module_id)."""
    fabric: Fabric | None = None
    """NVLink fabric that the GPU has joined."""
    mig: Text | None = None
    """Enabled or Disabled (nvidia-smi: mig_mode/current_mig)."""
    virtualization: Text | None = None
    """Such as None or Pass-Through (nvidia-smi: gpu_virtualization_mode/virtualization_mode)."""
    state: GPUState = GPUState.OK
    """OK; Lost (off the bus); ResetRequired; Unknown (its body could not be read)."""
    health: GPUHealth | None = None
    """Health of the physical GPU."""


class HistoryType(StrEnum):
    """What a history entry says."""

    GPU_ADDED = "GPUAdded"
    GPU_REMOVED = "GPURemoved"
    GPU_MOVED = "GPUMoved"
    GPU_CHANGED = "GPUChanged"
    GPU_LOST = "GPULost"
    GPU_RECOVERED = "GPURecovered"
    HEALTH_CHANGED = "HealthChanged"
    DRIVER_CHANGED = "DriverChanged"
    MACHINE_CHANGED = "MachineChanged"
    NODE_DEPARTED = "NodeDeparted"
    NODE_RETURNED = "NodeReturned"
    CHECK_FAILED = "CheckFailed"
    CHECK_PASSED = "CheckPassed"
    SIGHTED = "Sighted"
    DROPPED = "Dropped"


class Seen(Model):
    """A chassis and serial that a sighting found."""

    chassis: Text | None = None
    """Chassis serial, where there is one."""
    serial: Text | None = None
    """GPU serial, where there is one."""


class HistoryEntry(Model):
    """One change; written once and never altered."""

    sequence: Annotated[int, Field(ge=1)]
    """Number of the entry, rising by one within the life of the object."""
    time: Time
    """When the operator saw it."""
    type: HistoryType
    """What happened."""
    uuid: Text | None = None
    """UUID of the GPU; absent for entries about the node as a whole."""
    serial: Text | None = None
    """Serial of the GPU."""
    pci_address: Text | None = None
    """PCI address of the GPU."""
    chassis: Text | None = None
    """Chassis serial of the GPU."""
    machine: _Long | None = None
    """The virtual machine at that time (last part of providerID, `na` without one)."""
    source: Annotated[str | None, Field(max_length=320)] = None
    """namespace/pod that the fact was read from."""
    product: Text | None = None
    """Marketing name of the GPU."""
    driver: Text | None = None
    """Driver version at that time."""
    from_: Annotated[str | None, Field(alias="from", max_length=MAX_FROM_TO)] = None
    """Former value, for entries that tell of a changed one."""
    to: Annotated[str | None, Field(max_length=MAX_FROM_TO)] = None
    """New value, for entries that tell of a changed one."""
    message: Annotated[str | None, Field(max_length=MAX_MESSAGE)] = None
    """A sentence for people."""
    seen: Annotated[list[Seen], Field(max_length=MAX_GPUS)] | None = None
    """Of a `Sighted` entry: the unique pairs of chassis and serial that were there."""


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
