"""When a status no longer matches what is in force and has to be written again without a read.

the status shows                              | it is stale when
----------------------------------------------|-----------------------------------------------
`policy`, `observedGeneration`, suspended     | another value is in force
`sinks`                                       | the sinks in force have other names or types
`checks`                                      | one of them is neither in force nor a foreign one
the condition AsExpected                      | the policy in force expects something else
the condition Unique                          | other inventories list its GPUs, or no longer do
product and driver of ResourceSlices, or how  | the ResourceSlices say something else
they differ from the inventory                |
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuid_operator.plan.conditions import ConditionUpdate
from gpuid_operator.plan.duplicates import unique
from gpuid_operator.plan.expectation import Hardware, as_expected
from gpuid_operator.plan.resource_slices import NOT_FROM_SLICES, FromSlices, from_slices
from gpuid_operator.plan.status_change import StatusContext


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusBasis:
    """The part of a written status that depends on policy and spec, and the facts under it."""

    policy: str
    """Name of the policy, empty for the built-in one."""
    generation: int
    """Generation of the inventory's spec."""
    suspended: bool
    sinks: frozenset[tuple[str, str]]
    """Name and type of each sink that has a cursor."""
    checks: frozenset[str]
    """Names of the checks that have a result."""
    departed: bool = False
    hardware: Hardware | None = None
    """None before the first successful read."""
    as_expected: ConditionUpdate | None = None
    """The condition AsExpected; None where there is none."""
    unique: ConditionUpdate | None = None
    """The condition Unique; None where there is none."""
    uuids: tuple[str, ...] | None = None
    """UUIDs of the GPUs; None before the first successful read."""
    slices: FromSlices = NOT_FROM_SLICES
    """The part that comes from ResourceSlices."""


def is_stale(basis: StatusBasis, context: StatusContext) -> bool:
    """Whether a status with this basis differs from what is in force, as the table above says.

    A check that is in force and has no result yet makes no status stale: its first run writes one.
    """
    shown = (basis.policy, basis.generation, basis.suspended)
    return (
        shown != (context.policy, context.generation, context.suspended)
        or basis.sinks != {(sink.name, sink.type) for sink in context.sink_filters}
        or (context.checks is not None and not basis.checks <= context.checks)
        or basis.unique != unique(context.duplicates, departed=basis.departed, before=basis.unique)
        or basis.slices
        != from_slices(context.published, basis.uuids, departed=basis.departed, before=basis.slices)
        or basis.as_expected
        != as_expected(
            context.expect, basis.hardware, departed=basis.departed, before=basis.as_expected
        )
    )
