"""The Helm chart's version, generated files, values and schema agree."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import yaml

from gpuid_operator import __version__
from tests.support.manifests import (
    CHART,
    ROOT,
    Manifest,
)


def test_version_is_that_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_generated_files_are_fresh() -> None:
    """`make chart` writes them."""
    generated: dict[Path, str] = runpy.run_path(str(ROOT / "scripts" / "chart.py"))["generated"]()
    stale = [str(path) for path, text in generated.items() if path.read_text() != text]
    assert stale == []


def test_every_value_is_described_and_in_the_schema() -> None:
    """And the other way round: the schema names nothing that values.yaml does not have."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    readme = (CHART / "README.md").read_text()

    def walk(properties: Manifest, defaults: Manifest, path: str) -> None:
        assert properties.keys() - {"enabled"} == defaults.keys() - {"enabled"}, path
        for key, rule in properties.items():
            if "properties" in rule and defaults[key]:
                walk(rule["properties"], defaults[key], f"{path}{key}.")
            elif key in defaults and "$ref" not in rule:
                assert f"| `{path}{key}` |" in readme

    walk(schema["properties"], values, "")
