"""Put the results of `make bench` into docs/performance.json and docs/performance.md.

`make performance`. The JSON file has the newest result of each scenario; a scenario that was not
measured again keeps its older one. The page has the tables of each between two comments.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.bench import results
from tests.bench.tables import tables

PAGE: Final = results.ROOT / "docs" / "performance.md"
FIGURES: Final = PAGE.with_suffix(".json")
_BLOCK: Final = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def render(text: str, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with the tables of these results; a scenario without a result has none."""

    def block(match: re.Match[str]) -> str:
        result = figures.get(match[2])
        between = f"\n{_tables(result)}" if result else ""
        return f"{match[1]}{between}{match[3]}"

    return _BLOCK.sub(block, text)


def scenarios(text: str) -> list[str]:
    """The scenarios that have a place on a page."""
    return [match[2] for match in _BLOCK.finditer(text)]


def _tables(result: Mapping[str, Any]) -> str:
    parts = [f"{_sentence(table.title)}:\n\n{table.markdown()}" for table in tables(result)]
    return "\n".join([*parts, f"{_taken(result['taken'], result['seconds'])}\n\n"])


def _sentence(title: str) -> str:
    return title[:1].upper() + title[1:]


def _taken(taken: Mapping[str, Any], seconds: float) -> str:
    return (
        f"Taken on {taken['date']} at commit {taken['commit']}: {taken['cores']} cores"
        f" ({taken['cpu']}), {taken['memory_gb']} GB, Python {taken['python']}; load before:"
        f" {taken['load']}; {seconds:,} s."
    )


def main(page: Path = PAGE, figures: Path = FIGURES, folder: Path = results.FOLDER) -> int:
    known = json.loads(figures.read_text()) if figures.exists() else {}
    new = results.load(folder)
    if not new:
        print(f"no results in {folder}: run `make bench` first", file=sys.stderr)
        return 1
    known |= new
    figures.write_text(json.dumps(known, indent=1) + "\n")
    text = page.read_text(encoding="utf-8")
    page.write_text(render(text, known), encoding="utf-8")
    print(f"{', '.join(sorted(new))}: {figures} and {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
