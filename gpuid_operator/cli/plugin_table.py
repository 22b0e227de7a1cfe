"""Rows as a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import click
import orjson

Row = Mapping[str, Any]
"""Values as in JSON, by the key of their column."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_STYLES: Final = {
    "True": "green",
    "OK": "green",
    "False": "red",
    "Lost": "red",
    "ResetRequired": "red",
    "Departed": "dim",
    "Past": "dim",
}
_UNLIMITED: Final = 100_000


@dataclass(frozen=True, slots=True)
class Column:
    """A column of tables and CSV."""

    key: str
    title: str
    wide: bool = False
    """Tables show it only with `-o wide`; JSON and CSV always contain it."""
    sparse: bool = False
    """Tables show it only if a row has a value."""
    condition: bool = False
    """Its values are states, which a terminal shows in colour."""
    alarm: bool = False
    """A condition that means trouble where it is True."""
    age: bool = False
    """A time that tables show as an age."""
    absent: str = "-"
    """The text of a missing value in tables."""


CLUSTER: Final = Column("cluster", "CLUSTER")


def show(rows: Sequence[Row], columns: Sequence[Column], *, output: str, several: bool) -> None:
    """Print all rows in the format `output`: table, wide, json, csv. Tables have the column of the
    cluster only if `several` clusters are requested."""
    match output:
        case "json":
            click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
        case "csv":
            click.echo(csv_lines([[column.key for column in columns]]), nl=False)
            click.echo(csv_lines(csv_row(row, columns) for row in rows), nl=False)
        case _ if rows:
            shown = [
                column
                for column in columns
                if (output == "wide" or not column.wide)
                and (several or column is not CLUSTER)
                and (not column.sparse or any(row.get(column.key) for row in rows))
            ]
            _print_table(rows, shown)


def csv_row(row: Row, columns: Sequence[Column]) -> list[str]:
    """The fields of a row; a missing value is an empty field."""
    return [_text(row.get(column.key), absent="") for column in columns]


def csv_lines(rows: Any) -> str:
    """Rows of fields as lines of CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def printable(value: str) -> str:
    """Text without control characters: output of the hardware must not control a terminal."""
    return _CONTROL.sub("?", value)


def _print_table(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    # Imported only to print a table.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # As in kubectl: each row is one line and never truncated, also in a pipe.
    console = Console(width=_UNLIMITED, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.title, no_wrap=True)
    now = datetime.now(UTC)
    for row in rows:
        cells = []
        for column in columns:
            value = row.get(column.key)
            text = _age(value, now) if column.age and value else _text(value, absent=column.absent)
            style = _STYLES.get(text.partition(" ")[0], "") if column.condition else ""
            if column.alarm:
                style = "red" if value == "True" else ""
            cells.append(Text(printable(text), style=style))
        table.add_row(*cells)
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _text(value: Any, *, absent: str) -> str:
    if value is None or value == []:
        return absent
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)


def _age(value: str, now: datetime) -> str:
    """The age in one unit, similar to kubectl."""
    seconds = max(0, int((now - datetime.fromisoformat(value)).total_seconds()))
    for unit, size, below in (("s", 1, 120), ("m", 60, 7200), ("h", 3600, 172_800)):
        if seconds < below:
            return f"{seconds // size}{unit}"
    return f"{seconds // 86_400}d"
