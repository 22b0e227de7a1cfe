"""Server-side apply for the fake API server: who owns which field, and what an apply changes.

A value is taken apart into leaves. Lists of `LIST_MAPS` merge by key as the CRDs declare them;
every other list is atomic, one leaf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

LIST_MAPS: Final = {"conditions": "type", "checks": "name", "sinks": "name"}
"""Fields of a status that are list maps, with the key of their items (`x-kubernetes-list-type`)."""

Leaf = tuple[str, ...]
"""The path of a field; an item of a list map stands in it as `NAME=`."""


class ConflictingManagerError(Exception):
    """Another manager owns a field with another value."""


def flatten(value: Any, path: Leaf = ()) -> dict[Leaf, Any]:
    """The leaves of a JSON value. An empty mapping is a leaf."""
    if isinstance(value, Mapping) and value:
        leaves: dict[Leaf, Any] = {}
        for name, part in value.items():
            key = LIST_MAPS.get(name) if len(path) == 0 else None
            if key is not None and isinstance(part, list):
                for item in part:
                    leaves |= flatten(item, (*path, name, f"{item[key]}="))
            else:
                leaves |= flatten(part, (*path, name))
        return leaves
    return {path: value}


def unflatten(leaves: Mapping[Leaf, Any]) -> dict[str, Any]:
    """The JSON value of some leaves; items of list maps in the order in which they come."""
    root: dict[str, Any] = {}
    for path, value in leaves.items():
        into = root
        for name in path[:-1]:
            into = into.setdefault(name, {})
        into[path[-1]] = value
    for name in LIST_MAPS.keys() & root.keys():
        if isinstance(root[name], dict):
            root[name] = list(root[name].values())
    return root


def apply(
    live: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    manager: str,
    owners: dict[Leaf, set[str]],
    force: bool,
) -> dict[str, Any]:
    """What `live` becomes when `manager` applies `wanted`; `owners` is brought up to date.

    A field that the manager owned and leaves out goes, unless another owns it, too. Raises
    ConflictingManagerError where another owns a field with another value and `force` is off.
    """
    have, want = flatten(live) if live else {}, flatten(wanted) if wanted else {}
    contested = [
        path
        for path, value in want.items()
        if owners.get(path, set()) - {manager} and have.get(path) != value
    ]
    # The key of an item of a list map is the same for all who own the item.
    if contested and not force:
        fields = ", ".join(".".join(path) for path in contested)
        raise ConflictingManagerError(f"conflict with {owners[contested[0]]}: {fields}")
    for path in contested:
        owners[path] = set()
    for path in [path for path, names in owners.items() if manager in names and path not in want]:
        owners[path].discard(manager)
        if not owners[path]:
            del owners[path]
            have.pop(path, None)
    for path in want:
        owners.setdefault(path, set()).add(manager)
    return unflatten(have | want)
