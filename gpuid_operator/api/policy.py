"""GPUInventoryPolicy: how the inventories of a set of nodes are kept; users keep it in git."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import Field

from gpuid_operator.api.inventory import Condition
from gpuid_operator.api.meta import MAX_CHECKS, MAX_SINKS
from gpuid_operator.api.sinks import Name, Sink
from gpuid_operator.api.values import Duration, Model

LABEL_VALUE_PATTERN: Final = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
LABEL_KEY_PATTERN: Final = (
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
    r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
)
_LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE_PATTERN)]


class SelectorOperator(StrEnum):
    """Operators of a Kubernetes label selector."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelRequirement(Model):
    """One expression of a label selector."""

    key: Annotated[str, Field(min_length=1, max_length=317, pattern=LABEL_KEY_PATTERN)]
    """Label key."""
    operator: SelectorOperator
    """How the label's value relates to `values`."""
    values: Annotated[list[_LabelValue], Field(max_length=64)] | None = None
    """Values for In and NotIn; absent for Exists and DoesNotExist."""


class LabelSelector(Model):
    """A Kubernetes label selector; empty or absent selects everything."""

    match_labels: Annotated[dict[str, _LabelValue], Field(max_length=32)] | None = None
    """Labels that must be there with these values."""
    match_expressions: Annotated[list[LabelRequirement], Field(max_length=32)] | None = None
    """Further requirements; all of them must hold."""


class OnFailure(StrEnum):
    """What a failed check leads to."""

    NONE = "None"
    RESTART_POD = "RestartPod"


class Check(Model):
    """A shell command that is run in a container of each node and whose answer is kept."""

    name: Name
    """Name of the check, the key of `status.checks`."""
    pod_selector: LabelSelector
    """Pods to run in, in the first target's namespace; one running pod per node is used."""
    container: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Container of the pod (default: its default-container annotation, else its first)."""
    command: Annotated[str, Field(min_length=1, max_length=16_384)]
    """Script for `/bin/sh -c`; exit code 0 passes."""
    timeout: Duration | None = None
    """Time-out of one run (default 30s), at most 1h."""
    interval: Duration | None = None
    """Time between two runs (default 1h), at least 1s; 0s = only when the pod becomes ready."""
    on_failure: OnFailure | None = None
    """`None` (default), or `RestartPod`: delete the pod, within the guards, so that its controller
    starts it anew."""


class PolicySpec(Model):
    """What the user asks for. A field that is absent takes the built-in policy's value."""

    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] | None = None
    """The matching policy with the highest priority rules (default 0); of equals the oldest."""
    node_selector: LabelSelector | None = None
    """Nodes, by their labels; absent selects every node."""
    suspend: bool | None = None
    """Stop reads, checks and label writes; deliveries go on (default false)."""
    read_interval: Duration | None = None
    """Time between two reads of a node where no event asked for one; 0s = only on events
    (default: RESYNC of the operator, 24h)."""
    sighting_interval: Duration | None = None
    """Longest time between two `Sighted` entries of a node (default 24h)."""
    node_labels: bool | None = None
    """Whether Nodes carry gpuid's labels (default true)."""
    retention: Duration | None = None
    """How long the inventory of a node that is gone is kept (default 720h)."""
    sinks: Annotated[list[Sink], Field(max_length=MAX_SINKS)] | None = None
    """Where changes are delivered; absent: the operator's built-in sink; `[]`: nowhere."""
    checks: Annotated[list[Check], Field(max_length=MAX_CHECKS)] | None = None
    """Commands to run on each node; off until the operator allows policy checks."""


class PolicyStatus(Model):
    """What the operator found."""

    observed_generation: int | None = None
    """Generation of the spec that this status is about."""
    matched_nodes: int | None = None
    """Number of inventories that this policy rules at present."""
    conditions: Annotated[list[Condition], Field(max_length=8)] | None = None
    """`Ready` (the spec is in force) and `Conflict` (another policy of the same priority matches
    nodes of this one)."""


class Policy(Model):
    """A GPUInventoryPolicy as the operator holds it."""

    name: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    created: str = ""
    """creationTimestamp: of two policies of one priority the older rules."""
    spec: PolicySpec = PolicySpec()
    status: PolicyStatus = PolicyStatus()

    @classmethod
    def from_object(cls, body: dict[str, Any]) -> Policy:
        """Read an API object. Raises pydantic.ValidationError for a spec out of bounds."""
        meta = body.get("metadata", {})
        return cls(
            name=meta["name"],
            uid=meta.get("uid", ""),
            generation=meta.get("generation", 0),
            resource_version=meta.get("resourceVersion", ""),
            created=meta.get("creationTimestamp", ""),
            spec=PolicySpec.model_validate(body.get("spec") or {}),
            status=PolicyStatus.model_validate(body.get("status") or {}),
        )


def _not_too_often(field: str, otherwise: str) -> dict[str, str]:
    return {
        "rule": f"!has(self.{field}) || duration(self.{field}) == duration('0s')"
        f" || duration(self.{field}) >= duration('1s')",
        "message": f"{field} must be at least 1s, or 0s: then only {otherwise}",
    }


RULES: Final[dict[type[Model], list[dict[str, str]]]] = {
    LabelRequirement: [
        {
            "rule": "(self.operator in ['In', 'NotIn'])"
            " == (has(self.values) && size(self.values) > 0)",
            "message": "operators In and NotIn need values; Exists and DoesNotExist take none",
        }
    ],
    Check: [
        {
            "rule": "!has(self.timeout) || duration(self.timeout) >= duration('1ms')"
            " && duration(self.timeout) <= duration('1h')",
            "message": "timeout must be more than 0s and at most 1h",
        },
        _not_too_often("interval", "when the pod becomes ready"),
    ],
    PolicySpec: [_not_too_often("readInterval", "with events")],
}
