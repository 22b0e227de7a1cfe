"""The results of scenarios as tables: a title, a head and rows of text, printed or as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table as RichTable

from tests.bench.programs import OURS


@dataclass(frozen=True)
class Table:
    """The first column names the row; the others are figures."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def show(self, console: Console) -> None:
        table = RichTable(title=self.title)
        for index, name in enumerate(self.head):
            table.add_column(name, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        """The table without its title."""
        lines = [self.head, ("---", *["---:"] * (len(self.head) - 1)), *self.rows]
        return "".join(f"| {' | '.join(cell or ' ' for cell in line)} |\n" for line in lines)


def amount(value: float | None, unit: str = "", digits: int = 1) -> str:
    """A figure with its unit; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.{digits}f}{' ' if unit else ''}{unit}"


def kilobytes(value: float | None) -> str:
    """Bytes as kB (1,000 bytes)."""
    return amount(None if value is None else value / 1000, "kB")


_COLD: Final = (
    ("every node listed", "listed", lambda value: amount(value, "s")),
    ("every record out", "exported", lambda value: amount(value, "s")),
    ("settled", "settled", lambda value: amount(value, "s")),
    ("CPU per node", "cpu_ms", lambda value: amount(value, "ms")),
    ("peak resident", "resident", lambda value: amount(value, "MB", 0)),
    ("API server's CPU per node", "server_cpu_ms", lambda value: amount(value, "ms")),
    ("requests per node", "requests", lambda value: amount(value, digits=2)),
    ("writes per node", "writes", lambda value: amount(value, digits=2)),
    ("from the API server per node", "bytes_from_server", kilobytes),
    ("to the API server per node", "bytes_to_server", kilobytes),
)


def cold_start(result: Mapping[str, Any]) -> Table:
    """A column per program, since there are more figures than programs."""
    programs: Sequence[Mapping[str, Any]] = result["programs"]
    limits = " ".join(f"{name}={value}" for name, value in result["limits"].items())
    seconds = result["read_seconds"]
    reads = f"reads of {seconds:g} s" if seconds else "instant reads"
    how = limits or "each program's own defaults"
    rows = [
        (title, *(show(program.get(key)) for program in programs)) for title, key, show in _COLD
    ]
    return Table(
        title=f"{result['nodes']:,} nodes, {result['gpus']} GPUs each, {reads}; {how}",
        head=("", *(program["name"] for program in programs)),
        rows=tuple(rows),
    )


Show = Callable[[Any], str]
Facts = tuple[tuple[str, str, Show], ...]


def count(value: float | None) -> str:
    return amount(value, digits=0)


def _unit(unit: str, digits: int = 1) -> Show:
    return lambda value: amount(value, unit, digits)


def _megabytes(value: float) -> str:
    """Bytes as MB (1,000,000 bytes)."""
    return amount(value / 1_000_000, "MB")


_RESTART: Final[Facts] = (
    ("ready after", "ready_s", _unit("s")),
    ("execs", "execs", count),
    ("writes", "writes", count),
    ("records", "records", count),
    ("requests", "requests", count),
    ("CPU", "cpu_s", _unit("s")),
    ("peak resident", "resident", _unit("MB", 0)),
    ("API server's CPU", "server_cpu_s", _unit("s")),
    ("from the API server", "bytes_from_server", _megabytes),
)
_IDLE: Final[Facts] = (
    ("share of a core", "core_percent", _unit("%", 2)),
    ("requests per hour, without the lease", "requests_per_hour", count),
    ("requests of the lease per hour", "lease_requests_per_hour", count),
    ("writes besides the lease", "writes_besides_lease", count),
    ("from the API server per hour", "bytes_from_server_per_hour", _megabytes),
    ("share of a core, API server", "server_core_percent", _unit("%", 2)),
)
_READS: Final[Facts] = (
    ("requests", "requests", _unit("", 2)),
    ("writes", "writes", _unit("", 2)),
    ("CPU", "cpu_ms", _unit("ms")),
    ("API server's CPU", "server_cpu_ms", _unit("ms")),
    ("from the API server", "bytes_from_server", kilobytes),
    ("to the API server", "bytes_to_server", kilobytes),
)
_RESYNC: Final[Facts] = (
    ("from the API server", "bytes_from_server", _megabytes),
    ("requests", "requests", _unit("")),
    ("execs", "execs", count),
    ("writes", "writes", count),
    ("CPU", "cpu_ms", _unit("ms", 0)),
    ("API server's CPU", "server_cpu_ms", _unit("ms", 0)),
    ("longest hold of the event loop", "hold_ms", _unit("ms", 0)),
    ("longest hold, CPU time", "hold_cpu_ms", _unit("ms", 0)),
    ("peak resident", "resident", _unit("MB", 0)),
)


_SWAPS: Final[Facts] = (
    ("swaps", "samples", count),
    ("median", "p50_ms", _unit("ms", 0)),
    ("99th percentile", "p99_ms", _unit("ms", 0)),
    ("longest", "max_ms", _unit("ms", 0)),
)
_GROUPS: Final = {
    "idle": "idle cluster",
    "restarts": "restarts, without the operator",
    "operator": "restarts, with the operator",
}


def facts(result: Mapping[str, Any], title: str, rows: Facts) -> Table:
    """A column of figures."""
    return Table(
        title=f"{title}, {result['nodes']:,} nodes",
        head=("", OURS.name),
        rows=tuple((name, show(result[key])) for name, key, show in rows),
    )


def _restart(result: Mapping[str, Any], histories: str = "full histories") -> Table:
    return facts(result, f"restart with everything known, {histories}", _RESTART)


def _idle(result: Mapping[str, Any]) -> Table:
    return facts(result, f"idle for {result['idle_seconds']} s", _IDLE)


def _reads(result: Mapping[str, Any]) -> Table:
    return facts(result, "one due read of a node that has not changed", _READS)


def _resync(result: Mapping[str, Any]) -> Table:
    return facts(result, "one re-sync", _RESYNC)


def _swaps(result: Mapping[str, Any]) -> Table:
    return facts(result, "from a container's restart to the swapped GPU in the inventory", _SWAPS)


def _storm(result: Mapping[str, Any]) -> list[Table]:
    groups = result["bystander"]
    bystander = Table(
        title=f"GETs of a bystander while all plugins restart, {result['nodes']:,} nodes",
        head=("", "GETs", "failed", "median", "99th percentile", "longest"),
        rows=tuple(
            (
                title,
                count(groups[name]["samples"]),
                count(groups[name]["failed"]),
                *(amount(groups[name][key], "ms") for key in ("p50_ms", "p99_ms", "max_ms")),
            )
            for name, title in _GROUPS.items()
        ),
    )
    reads = result["reads"]
    nodes = facts(
        {
            "nodes": result["nodes"],
            "read": result["nodes_read"],
            "median": reads["p50_ms"] / 1000,
            "last": reads["max_ms"] / 1000,
        },
        "from the first restart to the read of a node",
        (
            ("nodes read", "read", count),
            ("median", "median", _unit("s")),
            ("last node", "last", _unit("s")),
        ),
    )
    return [bystander, nodes]


def _sinks(result: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            name,
            count(result["records"]),
            f"{count(batches)} {unit}",
            count(result["records"] / batches),
        )
        for name, unit, batches in (
            ("PostgreSQL", "transactions", result["transactions"]),
            ("S3", "objects", result["objects"]),
        )
    )
    return Table(
        title=f"the first records of {result['nodes']:,} nodes, delivered after"
        f" {result['delivered_s']:.1f} s",
        head=("sink", "records", "in", "records each"),
        rows=rows,
    )


def _sql(result: Mapping[str, Any]) -> list[Table]:
    look_ups = tuple(
        (view, key, amount(found["median_ms"], "ms"), count(found["runs"]))
        for view in ("gpu_current", "gpu_sightings")
        for key, found in result[view].items()
    )
    inserts = tuple(
        (
            kind,
            count(found["with_trigger_per_s"]),
            count(found["without_per_s"]),
            f"{found['ratio']:.2f}",
        )
        for kind, found in result["inserts"].items()
    )
    return [
        Table(
            title=f"look-ups in {result['rows']:,} rows of {result['gpus']:,} GPUs; migration"
            f" {result['migration_s']} s",
            head=("view", "look-up by", "median", "runs"),
            rows=look_ups,
        ),
        Table(
            title="records inserted per second",
            head=("records", "with gpu_current", "without", "time, ratio"),
            rows=inserts,
        ),
    ]


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of a result of any scenario."""
    match result["scenario"]:
        case "instant" | "real":
            return [cold_start(result)]
        case "restart":
            return [_restart(result)]
        case "idle":
            return [_idle(result)]
        case "reads":
            return [_reads(result)]
        case "resync":
            return [_resync(result)]
        case "swaps":
            return [_swaps(result)]
        case "storm":
            return _storm(result)
        case "sinks":
            return [_sinks(result)]
        case "sql":
            return _sql(result)
        case "large":
            return [
                cold_start(result),
                _restart(result["restart_short"], "histories of a cold start"),
                _restart(result["restart"]),
                _resync(result["resync"]),
            ]
    raise ValueError(f"no table of {result['scenario']}")
