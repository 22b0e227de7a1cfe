"""GPUInventoryPolicy: settings for the inventories of a set of nodes, written by users."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from gpuid_operator.api.inventory import Condition
from gpuid_operator.api.meta import (
    MAX_CHECKS,
    MAX_DRIVERS,
    MAX_GPUS,
    MAX_PRODUCTS,
    MAX_SINKS,
)
from gpuid_operator.api.sinks import Name, Sink
from gpuid_operator.api.values import Duration, Model, first_fault

LABEL_VALUE_PATTERN: Final = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
LABEL_KEY_PATTERN: Final = (
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
    r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
)
PATTERNS: Final = {
    LABEL_KEY_PATTERN: "must be a label key such as app or example.com/app",
}
"""What the CRD says to a user whose value does not match a pattern. A rule for each label value
would exceed the API server's budget."""

_Fact = Annotated[str, Field(min_length=1, max_length=128)]
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
    """Relation of the label value to `values`: In, NotIn, Exists or DoesNotExist."""
    values: Annotated[list[_LabelValue], Field(max_length=64)] | None = None
    """Values for In and NotIn; omitted for Exists and DoesNotExist."""


class LabelSelector(Model):
    """A Kubernetes label selector; an empty or omitted selector matches everything."""

    match_labels: Annotated[dict[str, _LabelValue], Field(max_length=32)] | None = None
    """Labels and values that must match."""
    match_expressions: Annotated[list[LabelRequirement], Field(max_length=32)] | None = None
    """Further requirements, all of which must match."""


class OnFailure(StrEnum):
    """Action after a failed check."""

    NONE = "None"
    RESTART_POD = "RestartPod"


class Check(Model):
    """A shell command that the operator runs in a container on each node and whose result it
    keeps."""

    name: Name
    """Name of the check, the key in `status.checks`."""
    pod_selector: LabelSelector
    """Pods to run the command in, in the namespace of the first target. The operator uses one
    running pod per node."""
    container: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Container of the pod (default: its default-container annotation, else its first)."""
    command: Annotated[str, Field(min_length=1, max_length=16_384)]
    """Script for `/bin/sh -c`. The check passes if it exits with code 0."""
    timeout: Duration | None = None
    """Timeout of one run, at most 1h (default 30s)."""
    interval: Duration | None = None
    """Time between two runs, at least 1s (default 1h). With 0s, the check only runs when the pod
    becomes ready."""
    on_failure: OnFailure | None = None
    """Action after a failure: `None` (default), or `RestartPod` to delete the pod, within limits,
    so that its controller recreates it."""


class Expectation(Model):
    """What each node of the policy should have; omitted fields expect nothing."""

    gpus: Annotated[int, Field(ge=0, le=MAX_GPUS)] | None = None
    """Number of GPUs, including lost ones."""
    products: Annotated[list[_Fact], Field(min_length=1, max_length=MAX_PRODUCTS)] | None = None
    """Product names, one of which every GPU has (nvidia-smi: product_name)."""
    drivers: Annotated[list[_Fact], Field(min_length=1, max_length=MAX_DRIVERS)] | None = None
    """Driver versions, one of which the node has."""


class PolicySpec(Model):
    """Settings for the selected nodes. Omitted fields take the value of the built-in policy."""

    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] | None = None
    """The matching policy with the highest priority applies to a node (default 0). Ties go to the
    oldest policy, and both policies report Conflict."""
    node_selector: LabelSelector | None = None
    """Selects nodes by their labels. If omitted, the policy matches every node."""
    suspend: bool | None = None
    """Whether to suspend reads, checks and label writes (default false). Deliveries continue."""
    read_interval: Duration | None = None
    """Time between two reads of a node if no event triggers one (default: the RESYNC setting of the
    operator, 24h). With 0s, only events trigger reads."""
    sighting_interval: Duration | None = None
    """Maximum time between two `Sighted` entries of a node (default: the SIGHTING_INTERVAL setting
    of the operator, 24h). With 0s, only a new container or a changed GPU causes one."""
    node_labels: bool | None = None
    """Whether to write gpuid's labels to the Nodes (default true)."""
    retention: Duration | None = None
    """How long to keep the inventory of a node that no longer exists (default 720h)."""
    sinks: Annotated[list[Sink], Field(max_length=MAX_SINKS)] | None = None
    """Sinks to deliver changes to. If omitted, the built-in sink of the operator; `[]` for none."""
    checks: Annotated[list[Check], Field(max_length=MAX_CHECKS)] | None = None
    """Commands to run on each node. They only run if the operator allows policy checks."""
    expect: Expectation | None = None
    """What each node should have, shown by the condition AsExpected (default: nothing)."""


class PolicyStatus(Model):
    """Observed state of the policy."""

    observed_generation: int | None = None
    """`metadata.generation` that this status is based on."""
    priority: int | None = None
    """Priority in force, also where the spec omits it; omitted if the spec is not in force."""
    matched_nodes: int | None = None
    """Number of inventories to which this policy currently applies."""
    conditions: Annotated[list[Condition], Field(max_length=8)] | None = None
    """Conditions of the policy: `Ready` (the spec is in force) and `Conflict` (another policy with
    the same priority matches some of its nodes)."""


class Policy(Model):
    """A GPUInventoryPolicy object."""

    name: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    created: str = ""
    """creationTimestamp; of two policies with the same priority, the older applies."""
    spec: PolicySpec = PolicySpec()
    status: PolicyStatus = PolicyStatus()
    fault: str = ""
    """Why the spec cannot be parsed, if so. `spec` is then empty, and not in force."""

    @classmethod
    def from_object(cls, body: dict[str, Any]) -> Policy:
        """Read an API object whose spec may be invalid. An invalid status is read as an empty one:
        the operator writes the whole status again."""
        spec, fault = PolicySpec(), ""
        status = PolicyStatus()
        try:
            spec = PolicySpec.model_validate(body.get("spec") or {})
        except ValidationError as error:
            fault = first_fault(error)
        with suppress(ValidationError):
            status = PolicyStatus.model_validate(body.get("status") or {})
        meta = body.get("metadata", {})
        return cls(
            name=meta["name"],
            uid=meta.get("uid", ""),
            generation=meta.get("generation", 0),
            resource_version=meta.get("resourceVersion", ""),
            created=meta.get("creationTimestamp", ""),
            spec=spec,
            status=status,
            fault=fault,
        )


def _not_too_often(field: str, otherwise: str) -> dict[str, str]:
    return {
        "rule": f"!has(self.{field}) || duration(self.{field}) == duration('0s')"
        f" || duration(self.{field}) >= duration('1s')",
        "message": f"{field} must be at least 1s, or 0s {otherwise}",
    }


RULES: Final[dict[type[Model], list[dict[str, str]]]] = {
    LabelRequirement: [
        {
            "rule": "(self.operator in ['In', 'NotIn'])"
            " == (has(self.values) && size(self.values) > 0)",
            "message": "operators In and NotIn require values; Exists and DoesNotExist forbid them",
        }
    ],
    Check: [
        {
            "rule": "!has(self.timeout) || duration(self.timeout) >= duration('1ms')"
            " && duration(self.timeout) <= duration('1h')",
            "message": "timeout must be more than 0s and at most 1h",
        },
        _not_too_often("interval", "to run only when the pod becomes ready"),
    ],
    PolicySpec: [_not_too_often("readInterval", "to read only on events")],
}
