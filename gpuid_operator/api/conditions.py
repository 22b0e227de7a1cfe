"""Standard Kubernetes conditions, and the condition types of a GPUInventory."""

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
    AS_EXPECTED = "AsExpected"
    UNIQUE = "Unique"
    QUARANTINED = "Quarantined"


class Condition(Model):
    """A standard Kubernetes condition."""

    type: Annotated[str, Field(max_length=64)]
    """Type of the condition."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z]([A-Za-z0-9_]*)$")]
    """Reason for the last transition, a CamelCase word for programs."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Human-readable message: what failed, why, and what to do."""
    observed_generation: int | None = None
    """`metadata.generation` that the condition is based on."""
    last_transition_time: Time
    """Last time the status of the condition changed."""
