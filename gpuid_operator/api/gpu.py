"""A physical GPU: its identity, place and health."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from gpuid_operator.api.meta import MAX_QUARANTINES_PER_GPU
from gpuid_operator.api.values import Model, QuarantineName, Text

_Quarantines = Annotated[list[QuarantineName], Field(max_length=MAX_QUARANTINES_PER_GPU)]


class GPUState(StrEnum):
    OK = "OK"
    LOST = "Lost"
    RESET_REQUIRED = "ResetRequired"
    UNKNOWN = "Unknown"


class Fabric(Model):
    """NVLink fabric (nvidia-smi: fabric); omitted if the GPU has not joined one."""

    cluster_uuid: Annotated[str | None, Field(alias="clusterUUID", max_length=128)] = None
    """UUID of the NVLink domain (nvidia-smi: fabric/clusterUUID)."""
    clique_id: Annotated[int | None, Field(alias="cliqueID")] = None
    """Clique in the NVLink domain (nvidia-smi: fabric/cliqueId)."""


class GPUHealth(Model):
    """Health of the physical GPU as reported by nvidia-smi."""

    recovery_action: Text | None = None
    """Recovery action that the driver recommends, such as None or Reset (nvidia-smi:
    gpu_recovery_action)."""
    ecc_uncorrected: int | None = None
    """Number of uncorrectable ECC errors over the life of the GPU (nvidia-smi:
    ecc_errors/aggregate)."""
    remapped_rows_pending: bool | None = None
    """Whether a row remap awaits a reset (nvidia-smi: remapped_rows/remapped_row_pending)."""
    remapped_rows_failed: bool | None = None
    """Whether a row remap failed (nvidia-smi: remapped_rows/remapped_row_failure)."""
    retired_pages_pending: bool | None = None
    """Whether a page retirement awaits a reboot (nvidia-smi: retired_pages/pending_retirement)."""


class GPU(Model):
    """A physical GPU. Fields that nvidia-smi does not report are omitted."""

    uuid: Text | None = None
    """Globally unique identifier of the GPU, `GPU-…` (nvidia-smi: uuid)."""
    serial: Text | None = None
    """Serial number of the board, shared by all GPUs of the board (nvidia-smi: serial)."""
    pci_address: Text | None = None
    """PCI address domain:bus:device.function in upper case, with an 8-digit domain (nvidia-smi:
    pci_bus_id)."""
    index: int | None = None
    """Index of the GPU in the output of nvidia-smi, starting at 0 (its -i option)."""
    product: Text | None = None
    """Product name (nvidia-smi: product_name)."""
    architecture: Text | None = None
    """Architecture, such as Hopper (nvidia-smi: product_architecture)."""
    board_part_number: Text | None = None
    """Part number of the board (nvidia-smi: board_part_number; gpu_part_number up to DTD v11)."""
    gpu_part_number: Text | None = None
    """Part number of the chip (nvidia-smi: gpu_part_number, from DTD v12)."""
    vbios: Text | None = None
    """Version of the video BIOS (nvidia-smi: vbios_version)."""
    chassis_serial: Text | None = None
    """Serial number of the chassis, for an NVL72 that of the rack (nvidia-smi:
    chassis_serial_number)."""
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
    """MIG mode, Enabled or Disabled (nvidia-smi: mig_mode/current_mig)."""
    virtualization: Text | None = None
    """Virtualization mode, such as None or Pass-Through (nvidia-smi:
    gpu_virtualization_mode/virtualization_mode)."""
    state: GPUState = GPUState.OK
    """State of the GPU: OK, Lost (off the bus), ResetRequired or Unknown (nvidia-smi cannot read
    it)."""
    health: GPUHealth | None = None
    """Health of the physical GPU."""
    quarantines: _Quarantines | None = None
    """Names of the GPUQuarantines that list this GPU, its board or its chassis, sorted."""
