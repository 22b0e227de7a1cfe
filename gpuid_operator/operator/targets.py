"""Parses TARGETS: presets by name, and targets of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import yaml

from gpuid_operator.operator.selectors import check_selector
from gpuid_operator.operator.variables import dns_label
from gpuid_operator.plan import presets
from gpuid_operator.plan.target import NVIDIA_SMI, Target

MAX_TARGETS: Final = 16
"""Largest number of items; a preset is one."""

_ALLOWED: Final = (
    "a YAML list of {preset: NAME, namespace: NAME}, namespace optional, and of"
    " {namespace: NAME, selector: SELECTOR, container: NAME, command: [WORD, …]},"
    " container and command optional"
)
T = TypeVar("T")

_OF_PRESET: Final = frozenset({"preset", "namespace"})
_OF_OWN: Final = frozenset({"namespace", "selector", "container", "command"})


def targets(text: str) -> tuple[Target, ...]:
    """Read TARGETS. Raises ValueError, which says what is allowed."""
    try:
        items = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{_ALLOWED}; invalid YAML{place}") from None
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_TARGETS:
        raise ValueError(f"{_ALLOWED}; from 1 to {MAX_TARGETS} items")
    read = [target for number, item in enumerate(items, 1) for target in _item(number, item)]
    # `auto` beside a preset: its first place counts.
    return tuple(dict.fromkeys(read))


def _item(number: int, item: object) -> tuple[Target, ...]:
    if not isinstance(item, dict):
        raise ValueError(f"{_ALLOWED}; item {number} is not a mapping")
    allowed = _OF_PRESET if "preset" in item else _OF_OWN
    unknown = sorted(str(key) for key in item.keys() - allowed)
    if unknown:
        raise ValueError(f"{_ALLOWED}; item {number} has the unknown key {', '.join(unknown)}")
    if "preset" not in item:
        return (_own(number, item),)
    place = None if item.get("namespace") is None else _text(number, item, "namespace", dns_label)
    return _text(number, item, "preset", lambda name: presets.expand(name, namespace=place))


def _own(number: int, item: Mapping[Any, object]) -> Target:
    command = item.get("command")
    if command is None:
        command = NVIDIA_SMI
    elif (
        not isinstance(command, list)
        or not command
        or not all(isinstance(word, str) and word for word in command)
    ):
        raise ValueError(f"{_ALLOWED}; item {number} needs a list of strings as its command")
    named = item.get("container") is not None
    return Target(
        namespace=_text(number, item, "namespace", dns_label),
        selector=_text(number, item, "selector", check_selector),
        container=_text(number, item, "container", dns_label) if named else None,
        command=tuple(command),
    )


def _text(number: int, item: Mapping[Any, object], key: str, parse: Callable[[str], T]) -> T:
    value = item.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{_ALLOWED}; item {number} needs a string as its {key}")
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{_ALLOWED}; {key} of item {number}: {error}") from None
