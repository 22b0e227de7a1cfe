"""Policies and inventories made from the CRDs' schemas, valid and not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from gpuid_operator.api.inventory import InventorySpec
from gpuid_operator.api.policy import Policy
from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import Sink, SinkType
from gpuid_operator.api.values import parse_duration
from gpuid_operator.engine.delivery import manager
from gpuid_operator.sinks import base as sinks
from gpuid_operator.sinks.registry import open_sink
from tests.faults.campaign import SEED, WHOLE, Figures
from tests.support import clock
from tests.support.bystander import NODE, world
from tests.support.engines import until
from tests.support.objects import inventory_path, policy_path
from tests.support.objects import put_policy as put_fake_policy
from tests.support.schema_strategies import schema_of, values

KINDS = ("GPUInventoryPolicy", "GPUInventory")
Row = Callable[[str], Figures]


def drawn(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """So many examples, the same for the same FAULTS_SEED."""
    found: list[Any] = []

    @seed(SEED)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def take(example: Any) -> None:
        found.append(example)

    take()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_schema_accepts_can_be_parsed(kind: str, figures: Row) -> None:
    row = figures(f"valid {kind}, parsed")
    for spec in drawn(values(schema_of(kind, "spec")), 5000 if WHOLE else 150):
        row.injected += 1
        if kind == "GPUInventory":
            InventorySpec.model_validate(spec)
        else:
            assert Policy.from_object({"metadata": {"name": "any"}, "spec": spec}).fault == ""
        row.survived += 1


class NoSink:
    """A sink that accepts everything, in the place of those that would connect."""

    async def send(self, records: Sequence[Record]) -> None:
        """Accept them."""

    async def close(self) -> None:
        """Do nothing."""


def unhurried(policy: Any) -> Any:
    """The policy with reads and checks every ten minutes at most: less runs too often for a test,
    and less than a second is refused by a rule in CEL."""
    for timed, name in (
        (policy, "readInterval"),
        *((c, "interval") for c in policy.get("checks", ())),
    ):
        if parse_duration(timed.get(name, "0")) < timedelta(minutes=10):
            timed.pop(name, None)
    return policy


def test_the_engine_under_generated_policies(figures: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies and inventories in any number, also those that only a server without CEL accepts."""
    row = figures("generated specs, engine")

    def opened(spec: Sink, **options: Any) -> sinks.Sink:
        return open_sink(spec, **options) if spec.type is SinkType.STDOUT else NoSink()

    monkeypatch.setattr(manager, "open_sink", opened)
    kinds = [schema_of(kind, "spec") for kind in KINDS]
    worlds = st.tuples(st.lists(values(kinds[0]), min_size=1, max_size=3), values(kinds[1]))

    async def play(policies: list[Any], spec: Any) -> None:
        async with world() as made:
            for number, policy in enumerate(policies):
                body = put_fake_policy(made.kube, f"made-{number}", **policy)
                made.harness.engine.policy_event(body, deleted=False)
                row.injected += 1
            made.kube.change(inventory_path(NODE), lambda body: body.update(spec=spec))
            row.injected += 1
            await until(
                lambda: all(
                    made.kube.objects[policy_path(f"made-{number}")]
                    .get("status", {})
                    .get("observedGeneration")
                    for number in range(len(policies))
                ),
                within=60,
            )
            made.swap(NODE)
            await asyncio.sleep(60)
        row.survived += len(policies) + 1

    for policies, spec in drawn(worlds, 2000 if WHOLE else 25):
        clock.run(play([unhurried(policy) for policy in policies], spec))
