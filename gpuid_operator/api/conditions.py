"""Standard Kubernetes conditions, and those of a GPUInventory."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from gpuid_operator.api.values import Model, Time


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
