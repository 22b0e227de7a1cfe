"""Which pods the operator watches: as few watches as there can be for the selectors of all targets
and checks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

_ONE_VALUE: Final = re.compile(r"([^\s,=!<>()]+)={1,2}([^\s,=!<>()]+)(,.*)?", re.DOTALL)
"""A selector that begins with key=value."""


@dataclass(frozen=True, slots=True, order=True)
class PodSelector:
    """The pods of one namespace that a label selector matches."""

    namespace: str
    selector: str
    """Label selector in the syntax of the API server's `labelSelector` parameter."""


def merge(selectors: Iterable[PodSelector]) -> dict[PodSelector, tuple[PodSelector, ...]]:
    """The watches that bring the pods of all selectors, and the selectors that each one serves.

    Selectors that differ only in the value of their first label share one: `app=a` and `app=b`
    become `app in (a,b)`. A watch costs the API server and Kopf more than a selector.
    """
    groups: dict[tuple[str, ...], list[PodSelector]] = {}
    for selector in sorted(set(selectors)):
        found = _ONE_VALUE.fullmatch(selector.selector)
        same = (found[1], found[3] or "") if found else (selector.selector,)
        groups.setdefault((selector.namespace, *same), []).append(selector)
    return {_merged(group): tuple(group) for group in groups.values()}


def _merged(group: list[PodSelector]) -> PodSelector:
    if len(group) == 1:
        return group[0]
    parts = [_parts(selector) for selector in group]
    key, _, rest = parts[0]
    values = ",".join(sorted(value for _, value, _ in parts))
    return PodSelector(group[0].namespace, f"{key} in ({values}){rest}")


def selects(
    selector: PodSelector, labels: Mapping[str, str], *, members: tuple[PodSelector, ...]
) -> bool:
    """Whether a selector matches the labels of a pod that the watch of all members brought."""
    if len(members) == 1:
        return selector in members
    key, value, _ = _parts(selector)
    return labels.get(key) == value


def _parts(selector: PodSelector) -> tuple[str, str, str]:
    found = _ONE_VALUE.fullmatch(selector.selector)
    assert found is not None, selector  # noqa: S101 - `merge` puts no other into a group of several
    return found[1], found[2], found[3] or ""
