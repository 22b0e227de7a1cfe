"""Which results of checks belong to which instance: several instances write one status.

A check runner applies the results of its own check under its own field manager. The inventory
instance applies everything else and, for such a check, only `recorded`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson


def foreign_checks(meta: Mapping[str, Any], *, manager: str) -> frozenset[str]:
    """The names of the checks whose results another field manager than `manager` owns.

    `meta` is the metadata of an API object; its managedFields name a list item by its key, such as
    `k:{"name":"a"}`. The manager that owns `passed` of a check owns all its results.
    """
    names = set()
    for item in meta.get("managedFields") or ():
        if item.get("manager") == manager:
            continue
        checks = item.get("fieldsV1", {}).get("f:status", {}).get("f:checks", {})
        for key, fields in checks.items():
            if key.startswith("k:") and "f:passed" in fields:
                names.add(orjson.loads(key[2:])["name"])
    return frozenset(names)


def owned_fields(status: Mapping[str, Any], *, foreign: Collection[str]) -> dict[str, Any]:
    """The part of a status that the inventory instance applies; `foreign` names the checks of other
    instances.

        check                   | applied
        ------------------------|---------------------
        of this instance        | all fields
        foreign, `recorded` set | `name`, `recorded`
        foreign, otherwise      | nothing
    """
    if not foreign:
        return dict(status)
    checks = []
    for check in status.get("checks", ()):
        if check["name"] not in foreign:
            checks.append(check)
        elif check.get("recorded") is not None:
            checks.append({"name": check["name"], "recorded": check["recorded"]})
    return {**status, "checks": checks}
