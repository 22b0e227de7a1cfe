"""The page of figures has the tables of its JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.page import FIGURES, PAGE, main, render, scenarios
from tests.bench.results import save
from tests.bench.run import SCENARIOS

TEXT = (
    "# Page\n\n<!-- swaps -->\n<!-- /swaps -->\n\nBetween.\n\n<!-- idle -->\nold\n<!-- /idle -->\n"
)
SWAPS = {"nodes": 1000, "samples": 200, "p50_ms": 150.2, "p99_ms": 400.0, "max_ms": 500.0}


@pytest.fixture
def result(tmp_path: Path) -> dict[str, Any]:
    save("swaps", SWAPS, seconds=61.4, folder=tmp_path / "bench")
    found: dict[str, Any] = json.loads((tmp_path / "bench" / "swaps.json").read_text())
    return found


def test_a_result_says_when_and_on_what_it_was_taken(result: dict[str, Any]) -> None:
    assert result["seconds"] == 61
    assert result["taken"]["cores"] >= 1
    assert result["taken"].keys() >= {"date", "commit", "cpu", "memory_gb", "python", "load"}


def test_tables_stand_between_the_comments_of_their_scenario(result: dict[str, Any]) -> None:
    page = render(TEXT, {"swaps": result})
    assert "| 99th percentile | 400 ms |" in page
    assert "Taken on 20" in page
    assert "old" not in page
    assert page.startswith("# Page\n\n<!-- swaps -->\n\n")
    assert page.endswith("Between.\n\n<!-- idle -->\n<!-- /idle -->\n")
    assert render(page, {"swaps": result}) == page
    assert scenarios(page) == ["swaps", "idle"]


def test_a_scenario_that_is_not_measured_again_keeps_its_figures(
    tmp_path: Path, result: dict[str, Any]
) -> None:
    page, figures = tmp_path / "performance.md", tmp_path / "performance.json"
    page.write_text(TEXT)
    assert main(page, figures, tmp_path / "none") == 1
    figures.write_text(json.dumps({"swaps": result | {"p99_ms": 1.0}, "restart": "old"}))
    assert main(page, figures, tmp_path / "bench") == 0
    known = json.loads(figures.read_text())
    assert (known["swaps"]["p99_ms"], known["restart"]) == (400.0, "old")


def test_the_page_has_the_tables_of_its_figures_and_a_place_for_each_scenario() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert render(text, json.loads(FIGURES.read_text())) == text, "run `make performance`"
    assert sorted(scenarios(text)) == sorted([*SCENARIOS, "sinks", "sql"])
