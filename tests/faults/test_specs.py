"""Policies, inventories and quarantines made from the CRDs' schemas, valid and not."""

from __future__ import annotations

import asyncio
import operator
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from gpuid_operator.api.inventory import InventorySpec
from gpuid_operator.api.policy import Policy
from gpuid_operator.api.quarantine import Quarantine
from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import Sink
from gpuid_operator.api.values import parse_duration
from gpuid_operator.engine.delivery import manager
from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from gpuid_operator.localcluster.errors import ApiError
from gpuid_operator.sinks import base as sinks
from gpuid_operator.sinks.registry import open_sink
from tests.faults.campaign import SEED, WHOLE, Figures
from tests.support import clock
from tests.support.bystander import NODE, World, world
from tests.support.check_scripts import policy_condition, put_policy
from tests.support.engines import until
from tests.support.objects import inventory_path, policy_path, quarantine_path
from tests.support.objects import put_policy as put_fake_policy
from tests.support.operators import (
    INVENTORIES,
    POLICIES,
    Operator,
    eventually,
    inventory,
    read_well,
    status,
)
from tests.support.quarantines import QUARANTINES
from tests.support.schema_strategies import TIMES, Broken, Schema, broken, schema_of, values
from tests.support.smi_fixtures import facts, machine, swapped

BYSTANDER = "gpu-bystander"
KINDS = {
    "GPUInventoryPolicy": POLICIES,
    "GPUInventory": INVENTORIES,
    "GPUQuarantine": QUARANTINES,
}
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
        body = {"metadata": {"name": "any"}, "spec": spec}
        if kind == "GPUInventory":
            InventorySpec.model_validate(spec)
        elif kind == "GPUQuarantine":
            assert Quarantine.from_object(body).fault == ""
        else:
            assert Policy.from_object(body).fault == ""
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
    """Objects in any number, also those that only a server without CEL accepts."""
    row = figures("generated specs, engine")

    def opened(spec: Sink, **options: Any) -> sinks.Sink:
        return open_sink(spec, **options) if spec.stdout is not None else NoSink()

    monkeypatch.setattr(manager, "open_sink", opened)
    made_policies, made_specs, made_quarantines = [
        values(schema_of(kind, "spec")) for kind in KINDS
    ]
    ends: st.SearchStrategy[Any] = st.just({}) | st.fixed_dictionaries({"until": TIMES})
    worlds = st.tuples(
        st.lists(made_policies, min_size=1, max_size=3),
        made_specs,
        st.lists(st.builds(operator.or_, made_quarantines, ends), min_size=1, max_size=3),
    )

    async def play(policies: list[Any], spec: Any, quarantines: list[Any]) -> None:
        async with world(quarantine_taints=True) as made:
            for number, policy in enumerate(policies):
                body = put_fake_policy(made.kube, f"made-{number}", **policy)
                made.harness.engine.policy_event(body, deleted=False)
                row.injected += 1
            for number, quarantine in enumerate(quarantines):
                made.harness.quarantine(f"made-{number}", *quarantine.pop("parts"), **quarantine)
                row.injected += 1
            made.kube.change(inventory_path(NODE), lambda body: body.update(spec=spec))
            row.injected += 1
            paths = [policy_path(f"made-{number}") for number in range(len(policies))]
            paths += [quarantine_path(f"made-{number}") for number in range(len(quarantines))]
            await until(
                lambda: all(is_judged(made.kube.objects[path]) for path in paths), within=60
            )
            await until(lambda: node_is_judged(made), within=60)
            made.swap(NODE)
            await asyncio.sleep(60)
        row.survived += len(policies) + len(quarantines) + 1

    for policies, spec, quarantines in drawn(worlds, 2000 if WHOLE else 25):
        clock.run(play([unhurried(policy) for policy in policies], spec, quarantines))


def node_is_judged(made: World) -> bool:
    """Whether the inventory of the node says so, or an Event or its policy says why the operator
    skips the node: the API server refuses a sink without a type, or with two."""
    skipped = any(
        one["reason"] == "InvalidSink"
        for path, body in made.kube.objects.items()
        if path.startswith(policy_path(""))
        for one in body.get("status", {}).get("conditions", ())
    )
    return (
        is_judged(made.kube.objects[inventory_path(NODE)]) or skipped or made.says_not_understood()
    )


def is_judged(body: Any) -> bool:
    """Whether the status says if this generation of the spec is in force."""
    found = body.get("status", {})
    ready = [one["status"] for one in found.get("conditions", ()) if one["type"] == "Ready"]
    return found.get("observedGeneration") == body["metadata"]["generation"] and (
        ready in (["True"], ["False"])
    )


def create(cluster: LocalCluster, kind: str, name: str, spec: Any) -> str:
    """What the API server says to an object that it refuses; nothing if it accepts it."""
    body = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
    try:
        cluster.client.send(Request("POST", f"{KINDS[kind]}?fieldValidation=Strict", body))
    except ApiError as error:
        assert error.status in (400, 422), error
        return str(error)
    return ""


def field(schema: Schema, path: str) -> Schema:
    """The schema of the field at a path such as `spec.sinks[0].name`."""
    for name in path.split(".")[1:]:
        schema = schema.get("properties", {}).get(name.partition("[")[0], {})
        schema = schema.get("items", {}) if "[" in name else schema
    return schema


_ALLOWED = {
    "type": r"must be of type|unknown field|cannot be handled",
    "null": r"Required value|must be of type|Invalid value: \"null\"",
    "required": r"Required value",
    "unknown": r"unknown field",
    "maxLength": r"may not be more than \d+|Too long",
    "minLength": r"should be at least \d+ chars",
    "enum": r"supported values: \"",
    "minimum": r"should be greater than or equal to",
    "maximum": r"should be less than or equal to",
    "maxItems": r"must have at most \d+ items",
    "minItems": r"should have at least \d+ items",
    "unique": r"Duplicate value",
    "duration": r"must be a duration such as",
    "time": r"must be a time from the year",
    "pattern": r"must be |matchLabels.*should match|values.*should match",
}
"""What a refusal says, by the rule that is broken."""


@pytest.mark.parametrize("kind", KINDS)
def test_what_breaks_one_rule_is_refused_in_words(
    cluster: LocalCluster, kind: str, figures: Row
) -> None:
    row = figures(f"invalid {kind}")
    made: list[Broken] = drawn(broken(schema_of(kind, "spec"), path="spec"), 2000 if WHOLE else 80)
    for number, one in enumerate(made):
        row.injected += 1
        said = create(cluster, kind, f"broken-{number}", one.value)
        assert said, f"{one.path} breaks {one.rule}, and was accepted: {one.value}"
        assert re.search(_ALLOWED[one.rule], said), (one, said)
        assert one.path in said or one.rule in ("null", "unknown", "maxItems"), (one, said)
        row.survived += 1


def test_generated_specs(cluster: LocalCluster, figures: Row) -> None:
    """Each object says within a minute whether it is in force, or its node is read; no other object
    is harmed."""
    row = figures("generated specs")
    cluster.add_node(BYSTANDER, xml=machine(BYSTANDER))
    own = {"matchLabels": {"kubernetes.io/hostname": BYSTANDER}}
    put_policy(cluster, "a-bystander", priority=1_000_000, nodeSelector=own)
    with Operator(cluster, POLICY_CHECKS="true") as running:
        eventually(lambda: read_well(cluster, BYSTANDER))
        entries = len(status(cluster, BYSTANDER)["history"])
        for at in range(40 if WHOLE else 1):
            names = [f"made-{at}-{number}" for number in range(30)]
            for kind in KINDS:
                for name, spec in zip(names, _specs(kind, seed_of=at, count=30), strict=False):
                    row.injected += 1
                    if said := create(cluster, kind, name, spec):
                        assert "must" in said or "set exactly" in said or "require" in said, said
            for path in KINDS.values():
                accepted = {item["metadata"]["name"] for item in cluster.client.get(path)["items"]}
                for name in accepted & set(names):
                    eventually(partial(says_whether_in_force, cluster, path, name), within=60)
            assert running.process.poll() is None
            row.survived += len(KINDS) * len(names)
            for path in KINDS.values():
                for item in cluster.client.get(path)["items"]:
                    if item["metadata"]["name"].startswith("made-"):
                        cluster.client.send(Request("DELETE", f"{path}/{item['metadata']['name']}"))
        xml = swapped(cluster.smi_file(BYSTANDER).read_text(), 0, "gpu-swapped")
        cluster.write_smi(BYSTANDER, xml)
        container = cluster.restart_plugin(BYSTANDER)

        def is_swapped() -> None:
            found = status(cluster, BYSTANDER)
            assert found["source"]["containerID"] == container
            assert (found["gpus"], found["policy"]) == (facts(xml), "a-bystander")
            read_well(cluster, BYSTANDER)

        eventually(is_swapped)
        added = [entry["type"] for entry in status(cluster, BYSTANDER)["history"][entries:]]
        assert added == ["GPURemoved", "GPUAdded", "Sighted"]
        assert inventory(cluster, BYSTANDER).get("spec", {}) == {}
    assert policy_condition(cluster, "a-bystander", "Ready")[:2] == ("True", "InForce")
    cluster.client.send(Request("DELETE", f"{POLICIES}/a-bystander"))


def _specs(kind: str, *, seed_of: int, count: int) -> list[Any]:
    return drawn(values(schema_of(kind, "spec")), (seed_of + 1) * count)[seed_of * count :]


def says_whether_in_force(cluster: LocalCluster, path: str, name: str) -> None:
    assert is_judged(cluster.client.get(f"{path}/{name}"))
