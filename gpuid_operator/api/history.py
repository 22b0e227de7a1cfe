"""The history of a node: its entries and their types."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from gpuid_operator.api.meta import MAX_FROM_TO, MAX_GPUS, MAX_MESSAGE
from gpuid_operator.api.values import LongText, Model, Text, Time


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
    machine: LongText | None = None
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
