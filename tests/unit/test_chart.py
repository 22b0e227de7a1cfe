"""The Helm chart's version, generated files, values and schema agree."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from gpuid_operator import __version__
from gpuid_operator.api.crd import crd_manifests
from tests.support.manifests import (
    CHART,
    ROOT,
    Manifest,
)


def test_version_is_that_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


METADATA: Manifest = yaml.safe_load((CHART / "Chart.yaml").read_text())


def annotation(name: str) -> list[Manifest]:
    found: list[Manifest] = yaml.safe_load(METADATA["annotations"][f"artifacthub.io/{name}"])
    return found


def test_links_of_the_metadata_lead_to_files() -> None:
    home = METADATA["home"]
    assert METADATA["sources"] == [home]
    pages = [link["url"] for link in annotation("links")]
    found = [ROOT / page.removeprefix(f"{home}/blob/main/") for page in pages]
    raw = home.replace("github.com", "raw.githubusercontent.com") + "/main/"
    found.append(ROOT / METADATA["icon"].removeprefix(raw))
    assert len(found) > 3
    assert [path for path in found if not path.is_file()] == []
    assert home in (ROOT / "pyproject.toml").read_text()


def test_examples_of_the_metadata_are_of_kinds_that_people_write() -> None:
    """The operator creates the objects of the third kind."""
    kinds = {item["kind"] for item in annotation("crds")}
    assert kinds - {item["kind"] for item in annotation("crdsExamples")} == {"GPUInventory"}


def test_changes_of_the_metadata_are_those_of_the_chart_in_this_version() -> None:
    changes = runpy.run_path(str(ROOT / "scripts" / "chart_metadata.py"))["changes"]
    log = """# Changelog

## [0.2.0] - unreleased

### Added

- A sink.
- Chart: the value `a.b` ([docs](docs/a.md)).

### Fixed

- The chart's value `c`.
- Charts of Grafana.

## [0.1.0] - 2026-01-01

### Added

- Helm chart.
"""
    assert changes(log, "0.2.0") == [
        {"kind": "added", "description": "Chart: the value a.b (docs)."},
        {"kind": "fixed", "description": "The chart's value c."},
    ]
    assert changes(log, "0.1.0") == [{"kind": "added", "description": "Helm chart."}]
    assert annotation("changes")


MINIMUM = (1, 29)
"""The first version of Kubernetes in which no cluster can ignore validation rules of CRDs."""
CEL = {
    **dict.fromkeys(("all", "duration", "exists", "exists_one", "filter", "has", "map"), (1, 25)),
    **dict.fromkeys(("contains", "endsWith", "matches", "size", "startsWith"), (1, 25)),
    "getFullYear": (1, 25),
    **dict.fromkeys(("lowerAscii", "replace", "split", "substring", "trim", "upperAscii"), (1, 25)),
    **dict.fromkeys(("find", "findAll", "isSorted", "isURL", "url"), (1, 25)),
    **dict.fromkeys(("optMap", "orValue", "quantity"), (1, 28)),
    "sets.contains": (1, 29),
    **dict.fromkeys(("cidr", "ip", "isCIDR", "isIP"), (1, 30)),
    "format.named": (1, 31),
}
"""Functions of CEL, by the version of Kubernetes that introduced them (the list in
k8s.io/apiserver/pkg/cel/environment). An API server accepts what the version before it knows."""


def test_the_oldest_kubernetes_is_the_same_everywhere() -> None:
    text = ".".join(map(str, MINIMUM))
    assert METADATA["kubeVersion"] == f">={text}.0-0"
    for page in (ROOT / "docs" / "install.md", CHART / "README.md"):
        assert f"Kubernetes {text} " in page.read_text(), page


def test_the_oldest_kubernetes_knows_what_the_rules_of_the_crds_call() -> None:
    called = set(re.findall(r"([\w.]*\w)\(", re.sub(r"'[^']*'", "", " ".join(rules()))))
    names = {name if name in CEL else name.rpartition(".")[2] for name in called}
    major, minor = MINIMUM
    assert {"matches", "duration", "has"} <= names
    assert {name for name in names if CEL[name] > (major, minor - 1)} == set()


def rules() -> Iterator[str]:
    """Every CEL rule of the CRDs."""

    def walk(schema: Any) -> Iterator[str]:
        if isinstance(schema, dict):
            validations = schema.get("x-kubernetes-validations", ())
            yield from (validation["rule"] for validation in validations)
            for part in schema.values():
                yield from walk(part)
        elif isinstance(schema, list):
            for part in schema:
                yield from walk(part)

    for manifest in crd_manifests():
        yield from walk(manifest["spec"]["versions"])


def test_generated_files_are_fresh() -> None:
    """`make chart` writes them."""
    generated: dict[Path, str] = runpy.run_path(str(ROOT / "scripts" / "chart.py"))["generated"]()
    stale = [str(path) for path, text in generated.items() if path.read_text() != text]
    assert stale == []


def test_every_value_is_described_and_in_the_schema() -> None:
    """And the other way round: the schema names nothing that values.yaml does not have. The
    descriptions of both are the same, since they are generated."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    readme = (CHART / "README.md").read_text()

    def walk(properties: Manifest, defaults: Manifest, path: str) -> None:
        assert properties.keys() - {"enabled"} == defaults.keys() - {"enabled"}, path
        for key, rule in properties.items():
            if "properties" in rule and defaults[key]:
                walk(rule["properties"], defaults[key], f"{path}{key}.")
            elif key in defaults:
                assert rule["description"], f"{path}{key}"
                assert f"| `{path}{key}` |" in readme

    walk(schema["properties"], values, "")
