"""What the views of a GPU and of a node ask of the clusters: the answers of `where` and
`history`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from gpuid_operator.cli.plugin_clusters import Cluster, Clusters
from gpuid_operator.cli.plugin_history import entries_of_gpu
from gpuid_operator.cli.plugin_where import node_rows, rows_of


async def gpu_details(clusters: Sequence[Cluster], identifier: str) -> dict[str, Any]:
    """Placements and history of the GPUs with an identifier."""
    places, entries = _asked(clusters), _asked(clusters)
    (rows, warnings), answers = await asyncio.gather(
        rows_of(places, identifier), entries.ask(entries_of_gpu(identifier))
    )
    history = sorted(
        (row for _, found in answers for row in found),
        key=lambda row: (row["time"], row["cluster"], row["node"], row["sequence"]),
    )
    problems = list(dict.fromkeys(places.problems + entries.problems))
    return {"placements": rows, "history": history, "warnings": warnings, "problems": problems}


async def node_details(cluster: Cluster, node: str) -> dict[str, Any]:
    """Status and placements of a node; `status` is None if it has no inventory."""
    asked = _asked([cluster])
    answers = await asked.ask(lambda one: one.inventory(node))
    inventory = answers[0][1] if answers else None
    return {
        "status": inventory.status.to_json() if inventory else None,
        "placements": node_rows(cluster, inventory) if inventory else [],
        "problems": asked.problems,
    }


def _asked(clusters: Sequence[Cluster]) -> Clusters:
    """Clusters of its own for each question: one that fails is left out of that one only."""
    asked = Clusters(several=len(clusters) > 1)
    asked.reached = list(clusters)
    return asked
