"""CustomResourceDefinitions, generated from the pydantic models, their single source.

`gpuid-operator crds` prints them. `crds/*.yaml` has the same content; a test fails if it is stale.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

from pydantic import BaseModel

from gpuid_operator.api import inventory, policy, quarantine, sinks
from gpuid_operator.api.meta import (
    GROUP,
    INVENTORY_KIND,
    INVENTORY_PLURAL,
    POLICY_KIND,
    POLICY_PLURAL,
    QUARANTINE_KIND,
    QUARANTINE_PLURAL,
    VERSION,
)

_RULES: Final = {
    model.__name__: rules
    for source in (sinks, policy, quarantine)
    for model, rules in source.RULES.items()
}

# The API server answers a value that does not match a `pattern` with the pattern alone.
_PATTERNS: Final = {**sinks.PATTERNS, **policy.PATTERNS, **quarantine.PATTERNS}

# Server-side apply merges these lists by key, so that two writers can own different items. All
# others are atomic: managedFields for 500 history entries would outgrow the object.
_LIST_MAPS: Final = {
    "sinks": "name",
    "checks": "name",
    "conditions": "type",
}

_KEPT: Final = frozenset(
    {"type", "format", "description", "pattern", "enum", "minimum", "maximum"}
    | {"minLength", "maxLength", "minItems", "maxItems", "maxProperties", "required"}
    | {"x-kubernetes-validations"}
)


def _condition(kind: str) -> dict[str, Any]:
    """The printer column with the status of a condition."""
    path = f'.status.conditions[?(@.type=="{kind}")].status'
    return {"name": kind, "type": "string", "jsonPath": path}


_READY_REASON: Final[dict[str, Any]] = {
    "name": "Reason",
    "type": "string",
    "jsonPath": '.status.conditions[?(@.type=="Ready")].reason',
}
"""The printer column that says why a node is not Ready."""


_INVENTORY_COLUMNS: Final[list[dict[str, Any]]] = [
    {"name": "GPUs", "type": "integer", "jsonPath": ".status.gpuCount"},
    {"name": "Product", "type": "string", "jsonPath": ".status.product"},
    {"name": "Driver", "type": "string", "jsonPath": ".status.driverVersion"},
    {"name": "State", "type": "string", "jsonPath": ".status.state"},
    _condition("Ready"),
    _READY_REASON,
    _condition("Healthy"),
    _condition("Delivered"),
    {"name": "Last Read", "type": "date", "jsonPath": ".status.lastReadTime"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "Machine", "type": "string", "jsonPath": ".status.node.machine", "priority": 1},
    {"name": "Chassis", "type": "string", "jsonPath": ".status.chassis", "priority": 1},
    {"name": "Serials", "type": "string", "jsonPath": ".status.serials", "priority": 1},
    {"name": "Policy", "type": "string", "jsonPath": ".status.policy", "priority": 1},
    _condition("Quarantined") | {"priority": 1},
]

_POLICY_COLUMNS: Final[list[dict[str, Any]]] = [
    {"name": "Priority", "type": "integer", "jsonPath": ".status.priority"},
    {"name": "Nodes", "type": "integer", "jsonPath": ".status.matchedNodes"},
    _condition("Ready"),
    _condition("Conflict"),
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]


_QUARANTINE_COLUMNS: Final[list[dict[str, Any]]] = [
    _condition("Present"),
    {"name": "Matches", "type": "integer", "jsonPath": ".status.matchCount"},
    {"name": "Action", "type": "string", "jsonPath": ".spec.action"},
    {"name": "Reason", "type": "string", "jsonPath": ".spec.reason"},
    {"name": "Ticket", "type": "string", "jsonPath": ".spec.ticket", "priority": 1},
    {"name": "Until", "type": "string", "jsonPath": ".spec.until", "priority": 1},
    _condition("Ready") | {"priority": 1},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]


def crd_manifests() -> list[dict[str, Any]]:
    """All CustomResourceDefinitions as JSON values, in the order in which to apply them."""
    return [
        _manifest(
            kind=INVENTORY_KIND,
            plural=INVENTORY_PLURAL,
            short="gpuinv",
            columns=_INVENTORY_COLUMNS,
            description="GPUInventory holds the GPUs of one node and their history."
            " It has the name of the node and is written by gpuid-operator.",
            spec=inventory.InventorySpec,
            status=inventory.InventoryStatus,
        ),
        _manifest(
            kind=POLICY_KIND,
            plural=POLICY_PLURAL,
            short="gpupol",
            columns=_POLICY_COLUMNS,
            description="GPUInventoryPolicy defines how the operator reads, checks and delivers"
            " the inventories of a set of nodes.",
            spec=policy.PolicySpec,
            status=policy.PolicyStatus,
        ),
        _manifest(
            kind=QUARANTINE_KIND,
            plural=QUARANTINE_PLURAL,
            short="gpuq",
            columns=_QUARANTINE_COLUMNS,
            description="GPUQuarantine lists parts that must not be used. The operator flags every"
            " node on which one of them turns up.",
            spec=quarantine.QuarantineSpec,
            status=quarantine.QuarantineStatus,
            rules=quarantine.OBJECT_RULES,
        ),
    ]


def _manifest(
    *,
    kind: str,
    plural: str,
    short: str,
    columns: list[dict[str, Any]],
    description: str,
    spec: type[BaseModel],
    status: type[BaseModel],
    rules: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "description": description,
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _schema(spec),
            "status": _schema(status),
        },
    }
    if rules:
        schema |= {"required": ["spec"], "x-kubernetes-validations": rules}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["gpuid"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """A model's structural schema: no $ref, no default, no null, every field described."""
    whole = model.model_json_schema(by_alias=True, mode="serialization")
    return _structural(whole, definitions=whole.get("$defs", {}), name=model.__name__, field="")


def _structural(
    node: dict[str, Any], *, definitions: dict[str, Any], name: str, field: str
) -> dict[str, Any]:
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        node = definitions[name] | {key: value for key, value in node.items() if key != "$ref"}
    if "anyOf" in node:
        # In a CRD, optional fields are omitted, never null.
        (choice,) = [item for item in node["anyOf"] if item.get("type") != "null"]
        outer = {key: value for key, value in node.items() if key != "anyOf"}
        return _structural({**choice, **outer}, definitions=definitions, name=name, field=field)
    result = {key: value for key, value in node.items() if key in _KEPT}
    if "description" in result:
        result["description"] = " ".join(inspect.cleandoc(result["description"]).split())
    if message := _PATTERNS.get(result.get("pattern", "")):
        rule = f"self.matches(r'{result.pop('pattern')}')"
        result["x-kubernetes-validations"] = [{"rule": rule, "message": message}]
    required = [key for key in result.pop("required", []) if _is_required(node, key)]
    if required:
        result["required"] = required
    if "properties" in node:
        result["properties"] = {
            key: _structural(value, definitions=definitions, name="", field=key)
            for key, value in node["properties"].items()
        }
        if name in _RULES:
            result["x-kubernetes-validations"] = _RULES[name]
    if isinstance(node.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(
            node["additionalProperties"], definitions=definitions, name="", field=""
        )
    if node.get("type") == "integer":
        result.setdefault("format", "int64")
    if node.get("type") == "array":
        result["items"] = _structural(node["items"], definitions=definitions, name="", field="")
        item_fields = result["items"].get("properties", {})
        key = _LIST_MAPS.get(field)
        if key and key in item_fields:
            result["x-kubernetes-list-type"] = "map"
            result["x-kubernetes-list-map-keys"] = [key]
        else:
            result["x-kubernetes-list-type"] = "atomic"
    return result


def _is_required(node: dict[str, Any], key: str) -> bool:
    """Whether a field is required. In serialization mode, pydantic requires fields with defaults;
    such a CRD would reject what older versions wrote."""
    return "default" not in node["properties"].get(key, {})
