"""`kubectl gpuid history`: the history of a node, or of a GPU on all its nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from gpuid_operator.api.inventory import HistoryEntry, HistoryType
from gpuid_operator.cli.plugin_clusters import Cluster, Clusters, say
from gpuid_operator.cli.plugin_table import CLUSTER, Column, Row, show
from gpuid_operator.plan.placement import canonical, entries_of
from gpuid_operator.plan.placements import placements

_COLUMNS: Final[tuple[Column, ...]] = (
    Column("time", "TIME"),
    CLUSTER,
    Column("node", "NODE"),
    Column("type", "TYPE"),
    Column("serial", "SERIAL"),
    Column("pciAddress", "PCI"),
    Column("detail", "DETAIL"),
    Column("uuid", "UUID", wide=True),
    Column("chassis", "CHASSIS", wide=True),
    Column("machine", "MACHINE", wide=True),
    Column("source", "SOURCE", wide=True),
    Column("product", "PRODUCT", wide=True),
    Column("driver", "DRIVER", wide=True),
    Column("sequence", "SEQUENCE", wide=True),
)

_CHANGE: Final = (Column("from", "FROM"), Column("to", "TO"), Column("message", "MESSAGE"))
"""The columns that CSV and JSON have in place of DETAIL."""


async def history(clusters: Clusters, subject: str, *, output: str) -> bool:
    """Print the entries, oldest first; return whether the subject is known."""

    async def of_node(cluster: Cluster) -> list[dict[str, Any]] | None:
        inventory = await cluster.inventory(subject)
        if inventory is None:
            return None
        return [_row(cluster, inventory.name, entry) for entry in inventory.status.history or ()]

    answers = [rows for _, rows in await clusters.ask(of_node) if rows is not None]
    if not answers:
        answers = [rows for _, rows in await clusters.ask(entries_of_gpu(subject)) if rows]
    if not answers:
        if clusters.reached:
            say(
                f"{subject} not found: no node has this name in {clusters.names}, and no label"
                " contains a GPU or chassis with this serial or UUID"
            )
        return False
    rows = sorted(
        (row for answer in answers for row in answer),
        key=lambda row: (row["time"], row["cluster"], row["node"], row["sequence"]),
    )
    columns = _COLUMNS
    if output in ("table", "wide"):
        rows = [row | {"detail": _detail(row)} for row in rows]
    else:
        columns = tuple(column for column in columns if column.key != "detail") + _CHANGE
    show(rows, columns, output=output, several=clusters.several)
    return True


def entries_of_gpu(
    subject: str,
) -> Callable[[Cluster], Awaitable[list[dict[str, Any]]]]:
    """The question for the entries about a GPU in the histories of its nodes."""
    identifier = canonical(subject)

    async def ask(cluster: Cluster) -> list[dict[str, Any]]:
        return [
            _row(cluster, inventory.name, entry)
            for inventory in await cluster.named_by_labels(identifier)
            for entry in entries_of(
                identifier, inventory.status, placements(inventory.name, inventory.status)
            )
        ]

    return ask


def _row(cluster: Cluster, node: str, entry: HistoryEntry) -> dict[str, Any]:
    return {"cluster": cluster.name, "node": node, **entry.to_json()}


def _detail(row: Row) -> str | None:
    if row["type"] == HistoryType.SIGHTED:
        return f"{len(row.get('seen', ()))} pairs of chassis and serial"
    if "message" in row or not {"from", "to"} & row.keys():
        return row.get("message")
    return f"from {row.get('from', 'none')} to {row.get('to', 'none')}"
