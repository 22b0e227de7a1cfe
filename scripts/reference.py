"""Generate docs/reference: the fields of the API and the metrics; `make chart` runs it.

The fields come from the CRDs, which come from the pydantic models, so that the page shows the
bounds that the API server enforces. The metrics come from `gpuid_operator/telemetry/metrics.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from prometheus_client.metrics import MetricWrapperBase

from gpuid_operator.api.crd import crd_manifests
from gpuid_operator.telemetry.metrics import Metrics, NodeGauge, PodCounter

PAGES: Final = Path(__file__).parent.parent / "docs" / "reference"
SINKS: Final = "spec.sinks[]"
"""The same in an inventory and in a policy, so the page has its fields once."""

_BOUNDS: Final = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "maxProperties": "at most {} entries",
}
_NOT_EMPTY: Final = dict.fromkeys(("at least 1 characters", "at least 1 items"), "not empty")


def generated() -> dict[Path, str]:
    """The content of every page, by path."""
    return {PAGES / "api.md": api_page(), PAGES / "metrics.md": metrics_page()}


def api_page() -> str:
    """Every field of the three kinds."""
    parts = [
        "# API reference\n\n"
        "<!-- Generated from gpuid_operator/api by `make chart`. -->\n\n"
        "Every field of the three kinds of `gpuid.github.com/v1alpha1`, with the bounds that the"
        " API server enforces; `kubectl explain` shows the same. The kinds are cluster-scoped."
        " `[]` is an item of a list, `{}` a value of a map, \\* a required field.\n"
    ]
    sink: dict[str, Any] = {}
    for manifest in crd_manifests():
        names, (version,) = manifest["spec"]["names"], manifest["spec"]["versions"]
        schema = version["schema"]["openAPIV3Schema"]
        short = names["shortNames"][0]
        parts.append(
            f"## {names['kind']}\n\n{_cell(schema['description'])}"
            f" Resource `{names['plural']}`, short `{short}`.\n\n{_rules(schema)}".rstrip("\n")
            + "\n"
        )
        for half in ("spec", "status"):
            part = schema["properties"][half]
            title = f"### {names['kind']} {half}"
            parts.append(f"{title}\n\n{_cell(part['description'])}\n\n{_table(part, half)}")
        sink = sink or schema["properties"]["spec"]["properties"]["sinks"]["items"]
    parts.append(f"## Sink\n\n{_cell(sink['description'])}\n\n{_rules(sink)}{_table(sink, '')}")
    return "\n".join(parts)


def _table(schema: dict[str, Any], path: str) -> str:
    rows = ["| Field | Type | Allowed | Description |", "|---|---|---|---|"]
    return "\n".join([*rows, *_rows(schema, path)]) + "\n"


def _rows(schema: dict[str, Any], path: str) -> Iterator[str]:
    required = schema.get("required", [])
    for key, field in schema.get("properties", {}).items():
        name = f"{path}.{key}".removeprefix(".")
        mark = " \\*" if key in required else ""
        inner, suffix = field, ""
        while inner["type"] == "array" or "additionalProperties" in inner:
            suffix += "[]" if inner["type"] == "array" else "{}"
            inner = inner["items"] if inner["type"] == "array" else inner["additionalProperties"]
        shared = name + suffix == SINKS
        about = _cell(field.get("description", ""))
        about += " The fields are [below](#sink)." if shared else ""
        yield f"| `{name}`{mark} | {_type(field)} | {_cell(_allowed(field))} | {about} |"
        if not shared:
            yield from _rows(inner, name + suffix)


def _type(field: dict[str, Any]) -> str:
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_type(field['additionalProperties'])}"
    return "time" if field.get("format") == "date-time" else str(field["type"])


def _allowed(field: dict[str, Any]) -> str:
    """The bounds of a field and of its items, in words."""
    said = [words.format(field[key]) for key, words in _BOUNDS.items() if key in field]
    said = [_NOT_EMPTY.get(words, words) for words in said]
    if "enum" in field:
        said.append(", ".join(f"`{value}`" for value in field["enum"]))
    if "pattern" in field:
        said.append(f"pattern `{field['pattern']}`")
    said += [rule["message"] for rule in field.get("x-kubernetes-validations", ())]
    if field["type"] == "array" and (inner := _allowed(field["items"])):
        said.append(f"each: {inner}")
    return "; ".join(said)


def _rules(schema: dict[str, Any]) -> str:
    rules = [f"- {_cell(rule['message'])}" for rule in schema.get("x-kubernetes-validations", ())]
    return "\n".join([*rules, "", ""]) if rules else ""


def metrics_page() -> str:
    """Every metric: name, type, labels, meaning."""
    metrics = Metrics()
    rows, own = [], set()
    for metric in vars(metrics).values():
        if isinstance(metric, NodeGauge):
            facts = (metric._name, "gauge", metric._labels, metric._head.decode().split(" ", 3)[3])
        elif isinstance(metric, PodCounter):
            facts = (metric.name, "counter", metric.labels, metric.documentation)
        elif isinstance(metric, MetricWrapperBase):
            facts = (metric._name, metric._type, metric._labelnames, metric._documentation)
        else:
            continue
        name, kind, labels, about = facts
        own.add(name)
        rows.append((name + "_total" * (kind == "counter"), kind, labels, about.split("\n")[0]))
    rows += [
        (family.name + "_total" * (family.type == "counter"), family.type, (), family.documentation)
        for family in metrics.registry.collect()
        if family.name not in own
    ]
    lines = [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {_cell(about)} |"
        for name, kind, labels, about in sorted(rows)
    ]
    return (
        "# Metrics reference\n\n"
        "<!-- Generated from gpuid_operator/telemetry/metrics.py by `make chart`. -->\n\n"
        "Every metric at `/metrics` of the operator. [Monitoring](../monitoring.md) says what to"
        " do with them. Prometheus adds labels such as `instance` and `pod`.\n\n"
        "| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )


def _cell(text: str) -> str:
    """Text for a cell of a table."""
    escaped = re.sub(r"(?<!`)([<>])(?!`)", r"\\\1", " ".join(text.split()))
    return escaped.replace("|", "\\|")
