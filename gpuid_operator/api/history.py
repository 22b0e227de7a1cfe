"""The history of a node: entries and their types."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from gpuid_operator.api.meta import MAX_FROM_TO, MAX_GPUS, MAX_MESSAGE
from gpuid_operator.api.values import LongText, Model, Text, Time


class HistoryType(StrEnum):
    """Types of history entries."""

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
    GPU_QUARANTINED = "GPUQuarantined"
    GPU_RELEASED = "GPUReleased"
    EXPECTATION_FAILED = "ExpectationFailed"
    EXPECTATION_MET = "ExpectationMet"
    SIGHTED = "Sighted"
    DROPPED = "Dropped"


class Seen(Model):
    """A pair of chassis and serial in a sighting."""

    chassis: Text | None = None
    """Serial number of the chassis, if known."""
    serial: Text | None = None
    """Serial number of the GPU, if known."""


class HistoryEntry(Model):
    """One change; written once and never altered."""

    sequence: Annotated[int, Field(ge=1)]
    """Sequence number of the entry, increasing by one over the life of the object."""
    time: Time
    """Time when the operator observed the change."""
    type: HistoryType
    """Type of the change."""
    uuid: Text | None = None
    """UUID of the GPU; omitted for entries about the node as a whole."""
    serial: Text | None = None
    """Serial number of the GPU."""
    pci_address: Text | None = None
    """PCI address of the GPU."""
    chassis: Text | None = None
    """Serial number of the chassis of the GPU."""
    machine: LongText | None = None
    """Virtual machine at that time: the last part of providerID, or `na` without one."""
    source: Annotated[str | None, Field(max_length=320)] = None
    """Pod that the operator read the fact from, as namespace/name."""
    product: Text | None = None
    """Product name of the GPU."""
    driver: Text | None = None
    """Driver version at that time."""
    from_: Annotated[str | None, Field(alias="from", max_length=MAX_FROM_TO)] = None
    """Previous value, for entries about a changed value."""
    to: Annotated[str | None, Field(max_length=MAX_FROM_TO)] = None
    """New value, for entries about a changed value."""
    message: Annotated[str | None, Field(max_length=MAX_MESSAGE)] = None
    """Human-readable description of the change."""
    seen: Annotated[list[Seen], Field(max_length=MAX_GPUS)] | None = None
    """Unique pairs of chassis and serial on the node, for `Sighted` entries."""
