"""Tables of results."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from tests.bench.run import SCENARIOS, scenarios
from tests.bench.tables import Table, amount, cold_start, tables


def test_figures_have_their_unit_and_a_missing_one_is_empty() -> None:
    assert amount(12.345, "s") == "12.3 s"
    assert amount(1234.5, "MB", 0) == "1,234 MB"
    assert amount(2.0, digits=2) == "2.00"
    assert amount(None, "s") == ""


def test_markdown_aligns_figures_to_the_right() -> None:
    table = Table("title", ("", "a", "b"), (("row", "1 s", ""),))
    assert table.markdown() == "|   | a | b |\n| --- | ---: | ---: |\n| row | 1 s |   |\n"


def program(name: str, **figures: Any) -> dict[str, Any]:
    return {"name": name, "cpu_ms": 10.0, "resident": 99.6, "server_cpu_ms": 5.0, **figures}


def test_a_cold_start_has_a_column_per_program() -> None:
    result = {
        "nodes": 1000,
        "gpus": 8,
        "read_seconds": 1.5,
        "limits": {},
        "programs": [program("exec alone", exported=3.0), program("ours", listed=2.0)],
    }
    table = cold_start(result)
    assert table.title == ("1,000 nodes, 8 GPUs each, reads of 1.5 s; each program's own defaults")
    assert table.head == ("", "exec alone", "ours")
    assert table.rows[0] == ("every node listed", "", "2.0 s")
    assert ("peak resident", "100 MB", "100 MB") in table.rows
    assert "WORKERS=16" in cold_start(result | {"limits": {"WORKERS": "16"}}).title


class Result(dict[str, Any]):
    """A result with all fields that a table asks for."""

    def __missing__(self, key: str) -> int:
        return 7


COLD = Result(limits={}, programs=[Result(name="ours")], nodes=1000)
RESULTS = {
    "instant": COLD,
    "real": COLD,
    "restart": Result(nodes=1000),
    "idle": Result(nodes=1000),
    "reads": Result(nodes=1000),
    "resync": Result(nodes=1000),
    "swaps": Result(nodes=1000),
    "storm": Result(
        nodes=1000,
        bystander={name: Result() for name in ("idle", "restarts", "operator")},
        reads=Result(),
    ),
    "sinks": Result(nodes=1000),
    "large": COLD | {name: Result(nodes=1000) for name in ("restart_short", "restart", "resync")},
}


@pytest.mark.parametrize("scenario", [*SCENARIOS, "sinks"])
def test_every_scenario_has_tables_of_its_figures(scenario: str) -> None:
    found = tables(Result(RESULTS[scenario] | {"scenario": scenario}))
    assert found
    for table in found:
        assert "1,000 nodes" in table.title
        assert all(len(row) == len(table.head) for row in table.rows)


def test_look_ups_and_inserts_have_a_row_each() -> None:
    look_up = {"median_ms": 1.25, "runs": 15}
    insert = {"with_trigger_per_s": 9000, "without_per_s": 12000, "ratio": 1.333}
    result = {"scenario": "sql", "rows": 1_000_000, "gpus": 200_000, "migration_s": 60.0} | {
        "gpu_current": {"gpu": look_up, "node": look_up},
        "gpu_sightings": {"gpu": look_up},
        "inserts": {"changes": insert},
    }
    look_ups, inserts = tables(result)
    assert len(look_ups.rows) == 3
    assert look_ups.rows[1] == ("gpu_current", "node", "1.2 ms", "15")
    assert inserts.rows == (("changes", "9,000", "12,000", "1.33"),)


def test_a_result_of_an_unknown_scenario_is_an_error() -> None:
    with pytest.raises(ValueError, match="no table of fast"):
        tables({"scenario": "fast"})


def test_scenarios_run_in_their_order() -> None:
    assert scenarios("real, instant") == ["instant", "real"]
    assert scenarios("all") == list(SCENARIOS)


@pytest.mark.parametrize("text", ["", "real,fast"])
def test_an_unknown_scenario_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="the scenarios are instant, real"):
        scenarios(text)
