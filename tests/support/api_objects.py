"""Rules of the API for objects and labels, for the fake API server: pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import orjson

T = TypeVar("T")

_REQUIREMENT: Final = re.compile(r"\s*([^\s,!=]+)\s+(in|notin)\s+\(([^)]*)\)\s*|([^,]+)")


def clone(value: T) -> T:
    """A copy of a JSON value, as one that went over a connection."""
    copied: T = orjson.loads(orjson.dumps(value))
    return copied


def within(path: str, known: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """What a write of `wanted` to `path` makes of an object: the status is written by way of its
    subresource only, and the subresource writes nothing else."""
    if path.endswith("/status"):
        whole, part = known, wanted
    else:
        whole, part = wanted, known
    others = {key: value for key, value in whole.items() if key != "status"}
    return {**others, **({"status": part["status"]} if "status" in part else {})}


def content(body: Mapping[str, Any]) -> dict[str, Any]:
    """An object without the metadata that the server sets: what a write can change."""
    meta = {
        key: value
        for key, value in body["metadata"].items()
        if key not in ("resourceVersion", "generation", "uid", "creationTimestamp") and value
    }
    return {**body, "metadata": meta}


def merge(known: Any, patch: Any) -> Any:
    """A merge patch of a JSON value (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(known) if isinstance(known, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return clone(merged)


def matches(labels: Mapping[str, str], selector: str) -> bool:
    """Whether a label selector, as in a query, selects these labels."""
    return all(_fits(labels, one) for one in _REQUIREMENT.finditer(selector) if one[0].strip())


def _fits(labels: Mapping[str, str], requirement: re.Match[str]) -> bool:
    key, operator, values, plain = requirement.groups()
    if operator:
        found = labels.get(key) in {value.strip() for value in values.split(",")}
        return found == (operator == "in")
    plain = plain.strip()
    if plain.startswith("!"):
        return plain[1:] not in labels
    for sign in ("!=", "==", "="):
        name, found_sign, value = plain.partition(sign)
        if found_sign:
            return (labels.get(name.strip()) == value.strip()) == (sign != "!=")
    return plain in labels
