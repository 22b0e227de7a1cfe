"""Strategies for hypothesis: models filled at random, and what may happen to a node."""

from __future__ import annotations

import types
import typing
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from annotated_types import Ge, Le, MaxLen, MinLen
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

# Characters that JSON, Go's JSON and UTF-8 make longer stand beside plain ones.
TEXT = st.characters(codec="utf-8", exclude_categories=["Cs"])
_REASON = r"[A-Za-z][A-Za-z0-9_]{0,20}"
_TIMES = st.datetimes(
    min_value=datetime(2020, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)
)


def models(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    """The model with every field drawn from what its annotation allows."""
    fields = {name: _of_field(name, field) for name, field in model.model_fields.items()}
    return st.fixed_dictionaries(fields).map(model.model_validate)


def _of_field(name: str, field: FieldInfo) -> st.SearchStrategy[Any]:
    if name == "reason":
        return st.from_regex(_REASON, fullmatch=True)
    return _of(field.annotation, field.metadata)


def _of(annotation: Any, metadata: typing.Sequence[Any]) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        extra = [
            item
            for given in arguments[1:]
            for item in (given.metadata if isinstance(given, FieldInfo) else [given])
        ]
        return _of(arguments[0], [*metadata, *extra])
    if origin in (typing.Union, types.UnionType):
        (inner,) = [item for item in arguments if item is not type(None)]
        return st.none() | _of(inner, metadata)
    if origin is list:
        most = min(_bound(metadata, MaxLen, "max_length", 4), 4)
        return st.lists(_of(arguments[0], []), max_size=most)
    if annotation is str:
        return st.text(
            TEXT,
            min_size=_bound(metadata, MinLen, "min_length", 0),
            max_size=_bound(metadata, MaxLen, "max_length", 32),
        )
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        least, most = _bound(metadata, Ge, "ge", -(2**63)), _bound(metadata, Le, "le", 2**63 - 1)
        return st.integers(least, most)
    if annotation is datetime:
        return _TIMES
    if issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    return models(annotation)


def _bound(metadata: typing.Sequence[Any], kind: type, name: str, default: int) -> int:
    return next((getattr(item, name) for item in metadata if isinstance(item, kind)), default)


Event = tuple[str, int, int]
"""What happens, and two numbers by which the world picks to what."""

_KINDS = [
    *("read", "read", "read", "late read"),
    *("add", "remove", "move", "exchange", "swap", "lose", "unreadable", "recover"),
    *("change", "health", "upgrade", "restart", "reboot", "another machine"),
    *("fail", "depart", "deliver", "deliver", "refuse", "sink", "suspend", "expect", "day"),
    *("quarantine", "quarantine", "lift", "forget quarantines", "later quarantine"),
]

EVENTS: st.SearchStrategy[list[Event]] = st.lists(
    st.tuples(st.sampled_from(_KINDS), st.integers(0, 11), st.integers(0, 11)),
    min_size=1,
    max_size=40,
)
