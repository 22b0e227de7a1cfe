"""The CustomResourceDefinitions: their rules, and that what the models write passes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuid_operator.api.crd import crd_manifests
from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.api.policy import PolicyStatus
from gpuid_operator.cli.crds import crd_files, crds
from tests.support.node_model import NodeModel
from tests.support.strategies import EVENTS, Event, models
from tests.support.structural import violations

CRDS = Path(__file__).parents[2] / "crds"
INVENTORY, POLICY, QUARANTINE = crd_manifests()
Node = tuple[str, dict[str, Any]]


def schema(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def part(manifest: dict[str, Any], path: str) -> dict[str, Any]:
    node = schema(manifest)
    for name in path.split("."):
        node = node["items"]["properties"][name] if "items" in node else node["properties"][name]
    return node


def walk(node: dict[str, Any], path: str) -> Iterator[Node]:
    """Every field, item and value under a schema, with where it is."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for name, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if name in node:
            yield from walk(node[name], path + mark)


NODES: list[Node] = [
    found
    for manifest in (INVENTORY, POLICY, QUARANTINE)
    for side in ("spec", "status")
    for found in walk(part(manifest, side), f"{manifest['spec']['names']['kind']}.{side}")
]


def where(offending: Iterator[Node]) -> list[str]:
    return [path for path, _ in offending]


def test_there_is_no_default_so_that_gitops_tools_see_no_drift() -> None:
    assert where((p, n) for p, n in NODES if "default" in n) == []


def test_every_string_array_and_map_is_bounded() -> None:
    def bounded(node: dict[str, Any]) -> bool:
        if node["type"] == "string":
            return "maxLength" in node or "enum" in node or node.get("format") == "date-time"
        if node["type"] == "array":
            return "maxItems" in node
        return "additionalProperties" not in node or "maxProperties" in node

    assert where((p, n) for p, n in NODES if not bounded(n)) == []


def test_every_field_is_described() -> None:
    fields = [(p, n) for p, n in NODES if not p.endswith(("[]", "{}"))]
    assert len(fields) > 150
    assert where((p, n) for p, n in fields if not n.get("description")) == []
    assert where((p, n) for p, n in fields if "\n" in n["description"]) == []


def test_the_schema_is_structural() -> None:
    assert where((p, n) for p, n in NODES if "type" not in n) == []
    assert (
        where((p, n) for p, n in NODES if {"$ref", "anyOf", "oneOf", "nullable"} & n.keys()) == []
    )
    assert where((p, n) for p, n in NODES if n.get("additionalProperties") is False) == []


def test_lists_that_two_writers_share_are_maps_and_all_others_atomic() -> None:
    kinds = {
        path: node.get("x-kubernetes-list-map-keys", node["x-kubernetes-list-type"])
        for path, node in NODES
        if node["type"] == "array"
    }
    maps = {path: keys for path, keys in kinds.items() if keys != "atomic"}
    assert maps == {
        "GPUInventory.spec.sinks": ["name"],
        "GPUInventory.status.sinks": ["name"],
        "GPUInventory.status.checks": ["name"],
        "GPUInventory.status.conditions": ["type"],
        "GPUInventoryPolicy.spec.sinks": ["name"],
        "GPUInventoryPolicy.spec.checks": ["name"],
        "GPUInventoryPolicy.status.conditions": ["type"],
        "GPUQuarantine.status.conditions": ["type"],
    }
    for path, keys in maps.items():
        items = dict(NODES)[f"{path}[]"]
        assert set(keys) <= set(items["required"]), path


@pytest.mark.parametrize(
    ("manifest", "path", "most"),
    [
        (INVENTORY, "status.gpus", 64),
        (INVENTORY, "status.history", 500),
        (INVENTORY, "status.checks", 16),
        (INVENTORY, "spec.sinks", 16),
        (POLICY, "spec.sinks", 16),
        (POLICY, "spec.checks", 16),
        (QUARANTINE, "spec.parts", 64),
        (QUARANTINE, "status.matches", 256),
    ],
)
def test_bounds_of_lists(manifest: dict[str, Any], path: str, most: int) -> None:
    assert part(manifest, path)["maxItems"] == most


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("status.history.from", 128),
        ("status.history.to", 128),
        ("status.history.message", 256),
        ("status.checks.stdout", 4096),
        ("status.checks.stderr", 4096),
    ],
)
def test_bounds_of_texts(path: str, most: int) -> None:
    assert part(INVENTORY, path)["maxLength"] == most


def test_rules_tell_the_user_what_to_write() -> None:
    rules = {path: node["x-kubernetes-validations"] for path, node in NODES if rules_of(node)}
    assert "GPUInventory.spec.sinks[]" in rules
    assert "GPUInventoryPolicy.spec.sinks[]" in rules
    assert "GPUInventoryPolicy.spec.sinks[].http" in rules
    assert all(rule["message"] for found in rules.values() for rule in found)


def test_no_pattern_of_a_spec_stands_without_words() -> None:
    """Except for label values: a rule for each would exceed the API server's budget."""
    bare = {path for path, node in NODES if ".spec" in path and "pattern" in node}
    assert {path for path in bare if not path.endswith((".values[]", ".matchLabels{}"))} == set()


def rules_of(node: dict[str, Any]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = node.get("x-kubernetes-validations", [])
    return found


@pytest.mark.parametrize(
    ("manifest", "plural", "short", "columns", "wide"),
    [
        (
            INVENTORY,
            "gpuinventories",
            "gpuinv",
            "GPUs Product Driver State Ready Reason Healthy Delivered Last_Read Age",
            "Machine Chassis Serials Policy Quarantined",
        ),
        (POLICY, "gpuinventorypolicies", "gpupol", "Priority Nodes Ready Conflict Age", ""),
        (
            QUARANTINE,
            "gpuquarantines",
            "gpuq",
            "Present Matches Action Reason Age",
            "Ticket Until Ready",
        ),
    ],
)
def test_names_and_columns(
    manifest: dict[str, Any], plural: str, short: str, columns: str, wide: str
) -> None:
    spec = manifest["spec"]
    assert manifest["metadata"]["name"] == f"{plural}.gpuid.github.com"
    assert (spec["scope"], spec["names"]["plural"]) == ("Cluster", plural)
    assert (spec["names"]["shortNames"], spec["names"]["categories"]) == ([short], ["gpuid"])
    (version,) = spec["versions"]
    assert (version["name"], version["subresources"]) == ("v1alpha1", {"status": {}})
    printed = version["additionalPrinterColumns"]
    narrow = [c["name"].replace(" ", "_") for c in printed if not c.get("priority")]
    assert " ".join(narrow) == columns
    assert " ".join(c["name"] for c in printed if c.get("priority") == 1) == wide


@pytest.mark.parametrize("manifest", [INVENTORY, POLICY, QUARANTINE])
def test_columns_lead_to_fields_of_their_type(manifest: dict[str, Any]) -> None:
    for column in manifest["spec"]["versions"][0]["additionalPrinterColumns"]:
        path = column["jsonPath"].removeprefix(".")
        if path.startswith("metadata."):
            continue
        found = part(manifest, path.replace('[?(@.type=="', "!").split("!")[0])
        if "[?" not in path:
            expected = {"date": "string", "integer": "integer"}.get(column["type"])
            assert expected in (None, found["type"])
            # kubectl prints a date as an age, and one that is to come as <invalid>.
            past = found.get("format") == "date-time" and path != "spec.until"
            assert (column["type"] == "date") is past


def test_the_committed_files_are_those_of_the_models() -> None:
    assert {path.name: path.read_text() for path in CRDS.iterdir()} == crd_files(), (
        "crds/ is stale: run `make crds`"
    )
    assert [yaml.safe_load(text) for text in crd_files().values()] == [
        INVENTORY,
        POLICY,
        QUARANTINE,
    ]


def test_the_command_prints_or_writes_them(tmp_path: Path) -> None:
    printed = CliRunner().invoke(crds)
    assert printed.exit_code == 0
    assert list(yaml.safe_load_all(printed.stdout)) == [INVENTORY, POLICY, QUARANTINE]
    written = CliRunner().invoke(crds, ["--write", str(tmp_path / "new")])
    assert (written.exit_code, written.output) == (0, "")
    files = {path.name: path.read_text() for path in (tmp_path / "new").iterdir()}
    assert files == crd_files()
    assert set(files) == {
        "gpuid.github.com_gpuinventories.yaml",
        "gpuid.github.com_gpuinventorypolicies.yaml",
        "gpuid.github.com_gpuquarantines.yaml",
    }


@st.composite
def statuses(draw: st.DrawFn) -> InventoryStatus:
    status: InventoryStatus = draw(models(InventoryStatus))
    # Lists that are maps hold each key once.
    unique = {
        "sinks": list({item.name: item for item in status.sinks or ()}.values()),
        "checks": list({item.name: item for item in status.checks or ()}.values()),
        "conditions": list({item.type: item for item in status.conditions or ()}.values()),
    }
    return status.model_copy(update=unique)


@given(statuses())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_inventory_status_passes_its_schema_and_comes_back(status: InventoryStatus) -> None:
    assert list(violations(part(INVENTORY, "status"), status.to_json())) == []
    assert InventoryStatus.model_validate(status.to_json()) == status


@given(models(PolicyStatus))
@settings(max_examples=40)
def test_any_policy_status_passes_its_schema(status: PolicyStatus) -> None:
    unique = {item.type: item for item in status.conditions or ()}
    status = status.model_copy(update={"conditions": list(unique.values())})
    assert list(violations(part(POLICY, "status"), status.to_json())) == []


@given(EVENTS)
@settings(max_examples=60)
def test_what_the_plan_makes_passes_the_schema(events: list[Event]) -> None:
    status = NodeModel().run(events).to_json()
    assert list(violations(part(INVENTORY, "status"), status)) == []


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"gpuCount": "8"}, "is no integer"),
        ({"gpuCount": True}, "is no integer"),
        ({"unheardOf": 1}, "unknown"),
        ({"state": "Gone"}, "is none of"),
        ({"history": [{"time": "2026-06-07T10:30:45Z", "type": "Sighted"}]}, "missing"),
        ({"lastReadTime": "yesterday"}, "is no time"),
        ({"serials": ["x"] * 65}, "65 items"),
        ({"serials": ["x" * 129]}, "129 characters"),
        ({"sinks": [{"name": "a", "type": "http"}] * 2}, "not unique"),
    ],
)
def test_the_check_itself_refuses(value: dict[str, Any], says: str) -> None:
    (found,) = violations(part(INVENTORY, "status"), value)
    assert says in found
