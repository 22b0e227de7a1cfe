"""The Grafana dashboards: what Grafana accepts without a word, and shows wrongly."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deployment" / "monitoring" / "dashboards").glob("*.json"))
DASHBOARDS: dict[str, dict[str, Any]] = {file.stem: json.loads(file.read_text()) for file in FILES}
METRICS = (ROOT / "docs" / "reference" / "metrics.md").read_text()
COLUMNS = 24
GRAFANA = {"__rate_interval", "__range"}
"""Variables that every dashboard has."""
WITHOUT_A_UNIT = {"table", "state-timeline"}
"""Panels of words rather than of numbers."""

each = pytest.mark.parametrize("board", DASHBOARDS.values(), ids=DASHBOARDS)


def test_there_are_dashboards_each_with_a_name_of_its_own() -> None:
    assert len(DASHBOARDS) >= 5
    for field in ("uid", "title"):
        assert len({board[field] for board in DASHBOARDS.values()}) == len(DASHBOARDS)
    for board in DASHBOARDS.values():
        assert re.fullmatch(r"[a-z0-9-]{1,40}", board["uid"])


@each
def test_panels_have_titles_of_their_own(board: dict[str, Any]) -> None:
    titles = [panel["title"] for panel in board["panels"]]
    assert titles
    assert len(set(titles)) == len(titles)


@each
def test_panels_are_within_the_grid_and_beside_each_other(board: dict[str, Any]) -> None:
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["y"] >= 0
        assert place["w"] > 0
        assert place["h"] > 0
        assert place["x"] + place["w"] <= COLUMNS
    for one, two in combinations(board["panels"], 2):
        assert not overlap(one["gridPos"], two["gridPos"]), (one["title"], two["title"])


def overlap(one: dict[str, int], two: dict[str, int]) -> bool:
    return all(
        one[at] < two[at] + two[size] and two[at] < one[at] + one[size]
        for at, size in (("x", "w"), ("y", "h"))
    )


@each
def test_panels_ask_the_chosen_datasource_and_say_their_unit(board: dict[str, Any]) -> None:
    for panel in board["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for target in panel["targets"]:
            assert target["expr"].strip()
            assert target.get("datasource") in (None, panel["datasource"])
        if panel["type"] not in WITHOUT_A_UNIT:
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@each
def test_every_variable_is_defined_and_used(board: dict[str, Any]) -> None:
    defined = {variable["name"] for variable in board["templating"]["list"]}
    text = json.dumps(board)
    used = set(re.findall(r"\$\{?(\w+)", text)) - GRAFANA
    assert used == defined


@each
def test_the_values_of_a_variable_are_of_a_metric_that_exists(board: dict[str, Any]) -> None:
    for variable in board["templating"]["list"]:
        if variable["type"] == "datasource":
            continue
        asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
        assert asked, variable["query"]
        assert variable["datasource"]["uid"] == "${datasource}"
        row = re.search(rf"^\| `{asked[1]}` \| \w+ \| ([^|]*) \|", METRICS, re.MULTILINE)
        assert row, asked[1]
        assert f"`{asked[2]}`" in row[1]
