"""Strategies for hypothesis: values that a CRD's schema accepts, and values that break one rule.

Rules in CEL are left out, except for those about the form of one text.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from hypothesis import strategies as st

from gpuid_operator.api.crd import crd_manifests
from gpuid_operator.api.values import DURATION_PATTERN

Schema = dict[str, Any]

_TEXT: Final = st.characters(codec="utf-8", exclude_categories=["Cs"])
_PLAIN_TIMES: Final = st.sampled_from(
    [
        *("1970-01-01T00:00:00Z", "2026-06-07T10:30:45Z", "2026-06-07T10:30:45.123456789Z"),
        *("2100-01-01T00:00:00-07:00", "9999-12-31T23:59:59Z"),
    ]
)
"""Times that a rule in CEL accepts, too."""
TIMES: Final = _PLAIN_TIMES | st.sampled_from(
    [
        *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "0000-01-01T00:00:00Z"),
        *("9999-12-31T23:59:59-01:00", "2026-06-07T10:30:45+24:00", "2026-06-07T10:30:45+99:99"),
        "2026-06-07t10:30:45.123456789z",
    ]
)
"""Times that the format `date-time` of the API server accepts."""
_DURATIONS: Final = st.sampled_from(["0s", "1ms", "500ms", "1s", "30s", "1m30.5s", "24h", "87600h"])
_LONGEST: Final = 4
"""Items of a generated list or map, so that whole objects stay small."""


@cache
def schema_of(kind: str, *path: str) -> Schema:
    """The schema of a kind, or that of a field below it."""
    (manifest,) = [one for one in crd_manifests() if one["spec"]["names"]["kind"] == kind]
    found: Schema = manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in path:
        found = found["properties"][name]
    return found


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that the schema accepts."""
    match schema["type"]:
        case "object":
            return _objects(schema)
        case "array":
            return _lists(schema)
        case "string":
            return _texts(schema)
        case "integer":
            return _integers(schema)
        case "boolean":
            return st.booleans()
    raise ValueError(schema["type"])


def _objects(schema: Schema) -> st.SearchStrategy[Any]:
    if "additionalProperties" in schema:
        keys = st.sampled_from(["app", "example.com/app", "X-Any", ""]) | st.text(_TEXT, max_size=9)
        most = min(_LONGEST, schema["maxProperties"])
        return st.dictionaries(keys, values(schema["additionalProperties"]), max_size=most)
    fields = {name: values(field) for name, field in schema.get("properties", {}).items()}
    required = schema.get("required", [])
    return st.fixed_dictionaries(
        {name: fields[name] for name in required},
        optional={name: field for name, field in fields.items() if name not in required},
    )


def _lists(schema: Schema) -> st.SearchStrategy[Any]:
    keys = schema.get("x-kubernetes-list-map-keys")
    return st.lists(
        values(schema["items"]),
        min_size=schema.get("minItems", 0),
        max_size=min(_LONGEST, schema["maxItems"]),
        unique_by=(lambda item: tuple(item[key] for key in keys)) if keys else None,
    )


def _texts(schema: Schema) -> st.SearchStrategy[str]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("format") == "date-time":
        return _PLAIN_TIMES if "x-kubernetes-validations" in schema else TIMES
    least, most = schema.get("minLength", 0), schema.get("maxLength", 64)
    if _is_duration(schema):
        drawn: st.SearchStrategy[str] = _DURATIONS | _matching(DURATION_PATTERN)
    elif (pattern := _pattern(schema)) is not None:
        drawn = _matching(pattern)
    else:
        return st.text(_TEXT, min_size=least, max_size=min(most, max(least, 24)))
    return drawn.filter(lambda text: least <= len(text) <= most)


def _matching(pattern: str) -> st.SearchStrategy[str]:
    """In Go, `$` is the end of the text, and `\\s` and the like are ASCII."""
    return st.from_regex(re.compile(re.sub(r"\$$", r"\\Z", pattern), re.ASCII))


def _pattern(schema: Schema) -> str | None:
    """The pattern of a text, which is a rule in CEL where a message explains it."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if found := re.fullmatch(r"self\.matches\(r'(.*)'\)", rule["rule"]):
            return found[1]
    return schema.get("pattern")


def _is_duration(schema: Schema) -> bool:
    rules = schema.get("x-kubernetes-validations", ())
    return any("duration(self) " in rule["rule"] for rule in rules)


def _integers(schema: Schema) -> st.SearchStrategy[int]:
    least, most = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
    return st.integers(least, most) | st.sampled_from([least, max(least, min(most, 1)), most])


@dataclass(frozen=True, slots=True)
class Broken:
    """A value that breaks one rule of a schema."""

    value: Any
    path: str
    """Where, as the API server names it: `spec.sinks[0].name`."""
    rule: str


def broken(schema: Schema, *, path: str) -> st.SearchStrategy[Broken]:
    """Values of which one field breaks one rule; `path` is that of the whole."""

    @st.composite
    def draw_broken(draw: st.DrawFn) -> Broken:
        value = draw(values(schema).filter(lambda made: any(_breaks(schema, made, path))))
        ways = list(_breaks(schema, value, path))
        where, rule, steps, replacement = draw(st.sampled_from(ways))
        return Broken(_replaced(value, steps, replacement), where, rule)

    return draw_broken()


_ABSENT: Final = object()
_Break = tuple[str, str, tuple[str | int, ...], Any]
"""Path, rule, steps to the field, and what stands there instead."""


def _breaks(
    schema: Schema, value: Any, path: str, steps: tuple[str | int, ...] = ()
) -> Iterator[_Break]:
    """The ways to break a rule of the schema in a value that keeps all of them."""
    kind = schema["type"]
    other: Any = 1 if kind in ("string", "boolean") else "text"
    yield path, "type", steps, other
    if steps and isinstance(steps[-1], int):  # The API server drops a field that is null.
        yield path, "null", steps, None
    if kind == "string":
        if "maxLength" in schema:
            yield path, "maxLength", steps, "x" * (schema["maxLength"] + 1)
        if schema.get("minLength"):
            yield path, "minLength", steps, ""
        if "enum" in schema:
            yield path, "enum", steps, "Other"
        if _pattern(schema) is not None:
            yield path, "pattern", steps, "%%% \n"[: schema.get("maxLength", 5)]
        if _is_duration(schema):
            yield path, "duration", steps, "soon"
        if schema.get("format") == "date-time" and "x-kubernetes-validations" in schema:
            yield path, "time", steps, "0001-01-01T00:00:00+01:00"
    elif kind == "integer":
        for rule, off in (("minimum", -1), ("maximum", 1)):
            if rule in schema:
                yield path, rule, steps, schema[rule] + off
    elif kind == "array":
        if schema.get("minItems"):
            yield path, "minItems", steps, []
        item = value[0] if value else None
        if item is not None:
            many = [copy.deepcopy(item) for _ in range(schema["maxItems"] + 1)]
            for key in schema.get("x-kubernetes-list-map-keys", ()):
                for number, one in enumerate(many):
                    one[key] = f"n{number}"
            yield path, "maxItems", steps, many
            if "x-kubernetes-list-map-keys" in schema:
                yield f"{path}[{len(value)}]", "unique", steps, [*value, copy.deepcopy(item)]
        for at, one in enumerate(value):
            yield from _breaks(schema["items"], one, f"{path}[{at}]", (*steps, at))
    elif "properties" in schema:
        yield f"{path}.unknownField", "unknown", (*steps, "unknownField"), 1
        for name in schema.get("required", ()):
            yield f"{path}.{name}", "required", (*steps, name), _ABSENT
        for name, one in value.items():
            yield from _breaks(schema["properties"][name], one, f"{path}.{name}", (*steps, name))


def _replaced(value: Any, steps: tuple[str | int, ...], replacement: Any) -> Any:
    if not steps:
        return replacement
    whole = copy.deepcopy(value)
    inner = whole
    for step in steps[:-1]:
        inner = inner[step]
    if replacement is _ABSENT:
        del inner[steps[-1]]
    else:
        inner[steps[-1]] = replacement
    return whole
