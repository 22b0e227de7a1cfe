"""A check of values against structural schemas, as the API server makes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
}


def violations(schema: dict[str, Any], value: Any, path: str = "") -> Iterator[str]:
    """What the API server would refuse in the value, or prune from it."""
    kind: str = schema["type"]
    right: bool = isinstance(value, _TYPES[kind])
    if not right or (kind == "integer" and isinstance(value, bool)):
        yield f"{path}: {value!r} is no {kind}"
    elif kind == "object":
        yield from _object(schema, value, path)
    elif kind == "array":
        if len(value) > schema["maxItems"]:
            yield f"{path}: {len(value)} items"
        for at, item in enumerate(value):
            yield from violations(schema["items"], item, f"{path}[{at}]")
        keys = schema.get("x-kubernetes-list-map-keys")
        if keys:
            names = [tuple(item.get(key) for key in keys) for item in value]
            if len(set(names)) < len(names):
                yield f"{path}: {names} are not unique"
    elif kind == "string":
        yield from _string(schema, value, path)
    elif kind == "integer" and not (
        schema.get("minimum", -(2**63)) <= value <= schema.get("maximum", 2**63 - 1)
    ):
        yield f"{path}: {value} is out of range"


def _object(schema: dict[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
    fields, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name in schema.get("required", []):
        if name not in value:
            yield f"{path}.{name}: missing"
    if others and len(value) > schema["maxProperties"]:
        yield f"{path}: {len(value)} properties"
    for name, item in value.items():
        inner = fields.get(name, others)
        if inner is None:
            yield f"{path}.{name}: unknown"
        else:
            yield from violations(inner, item, f"{path}.{name}")


def _string(schema: dict[str, Any], value: str, path: str) -> Iterator[str]:
    if len(value) > schema.get("maxLength", len(value)):
        yield f"{path}: {len(value)} characters"
    if len(value) < schema.get("minLength", 0):
        yield f"{path}: too short"
    if value not in schema.get("enum", [value]):
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if not re.search(schema.get("pattern", ""), value):
        yield f"{path}: {value!r} does not match {schema['pattern']}"
    if schema.get("format") == "date-time":
        try:
            datetime.fromisoformat(value)
        except ValueError:
            yield f"{path}: {value!r} is no time"
