"""One physical GPU: its identity, its place, its health."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from gpuid_operator.api.values import Model, Text


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
