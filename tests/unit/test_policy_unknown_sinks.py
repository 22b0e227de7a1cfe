"""Sinks of types that this version of the operator does not know, as after a rollback."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gpuid_operator.api.inventory import InventorySpec
from gpuid_operator.api.policy import Policy, PolicySpec
from gpuid_operator.plan.policy import policy_status, resolve_policy

SINKS = [
    {"name": "bus", "pulsar": {}},
    {"name": "queue", "pulsar": {}},
    {"name": "logs", "stdout": {}},
]


def policy(**spec: Any) -> Policy:
    return Policy(name="fleet", spec=PolicySpec.model_validate(spec))


def test_sinks_of_unknown_types_are_set_aside() -> None:
    """A sink of an inventory can replace one of them, or be one itself."""
    spec = InventorySpec.model_validate(
        {"sinks": [{"name": "queue", "stdout": {}}, {"name": "own", "pulsar": {}}]}
    )
    effective = resolve_policy(policy(sinks=SINKS), builtin=PolicySpec(), spec=spec)
    assert effective.unknown_sinks == ("bus", "own")
    assert [sink.name for sink in effective.sinks] == ["queue", "logs"]
    filters = effective.status_context(1).sink_filters
    assert [(one.name, one.type) for one in filters] == [("queue", "stdout"), ("logs", "stdout")]


def test_a_policy_with_such_sinks_is_not_ready_and_names_them() -> None:
    """This is more important than an invalid check."""
    check = {"name": "c", "podSelector": {"matchLabels": {"a/b/c": "x"}}, "command": "true"}
    status = policy_status(
        policy(sinks=SINKS, checks=[check]),
        matched=0,
        contenders=[],
        checks_allowed=True,
        now=datetime(2026, 6, 7, tzinfo=UTC),
    )
    (ready,) = [one for one in status.conditions or () if one.type == "Ready"]
    assert (ready.status.value, ready.reason) == ("False", "InvalidSink")
    assert "sinks bus, queue," in ready.message
    assert "set stdout, http, " in ready.message
