"""The `metadata.managedFields` of the fake API server: who set which field of an object, and when.

As on a real server: a write gives its manager the fields that it adds or changes, and takes them
from the others; a field that is removed is nobody's, without a new time. Lists are single fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tests.support.apply import Leaf, flatten

_PARTS = {"spec": "", "status": "status"}
"""The subresource that writes a part of an object."""


def managed_fields(
    known: Mapping[str, Any] | None, made: Mapping[str, Any], *, manager: str, now: datetime
) -> list[dict[str, Any]]:
    """The entries after a write that makes `made` of `known`, a new object for None."""
    before, after = _leaves(known or {}), _leaves(made)
    changed = {leaf for leaf, value in after.items() if leaf not in before or before[leaf] != value}
    entries = {
        (entry["manager"], entry["subresource"]): (entry["time"], _read(entry["fieldsV1"]))
        for entry in ((known or {}).get("metadata") or {}).get("managedFields") or ()
    }
    kept = after.keys() - changed
    entries = {key: (time, leaves & kept) for key, (time, leaves) in entries.items()}
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    for subresource in ("", "status"):
        mine = {leaf for leaf in changed if _PARTS.get(leaf[0], "") == subresource}
        if mine:
            _, others = entries.get((manager, subresource), ("", set()))
            entries[manager, subresource] = time, others | mine
    return [
        {
            "manager": name,
            "operation": "Update",
            "apiVersion": made.get("apiVersion", "v1"),
            "subresource": subresource,
            "time": time,
            "fieldsType": "FieldsV1",
            "fieldsV1": _written(leaves),
        }
        for (name, subresource), (time, leaves) in entries.items()
        if leaves
    ]


def _leaves(body: Mapping[str, Any]) -> dict[Leaf, Any]:
    meta = body.get("metadata") or {}
    parts = {
        "metadata": {key: meta.get(key) or {} for key in ("labels", "annotations")},
        "spec": body.get("spec") or {},
        "status": body.get("status") or {},
    }
    return {leaf: value for leaf, value in flatten(parts).items() if value != {}}


def _written(leaves: set[Leaf]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for leaf in sorted(leaves):
        into = fields
        for name in leaf:
            into = into.setdefault(f"f:{name}", {})
    return fields


def _read(fields: Mapping[str, Any], path: Leaf = ()) -> set[Leaf]:
    if not fields:
        return {path}
    return set().union(
        *(_read(part, (*path, name.removeprefix("f:"))) for name, part in fields.items())
    )
