"""`kubectl gpuid list` and `export`: the present nodes and GPUs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click
import orjson

from gpuid_operator.api.inventory import GPU, ConditionType, Inventory
from gpuid_operator.api.values import format_time
from gpuid_operator.cli.plugin_clusters import Cluster, Clusters, say
from gpuid_operator.cli.plugin_table import CLUSTER, Column, csv_lines, csv_row, show
from gpuid_operator.plan.conditions import find

_NODES: Final = (
    CLUSTER,
    Column("node", "NODE"),
    Column("gpuCount", "GPUS"),
    Column("product", "PRODUCT"),
    Column("state", "STATE", condition=True),
    Column("ready", "READY", condition=True),
    Column("healthy", "HEALTHY", condition=True),
    Column("quarantined", "QUARANTINED", alarm=True, sparse=True),
    Column("unique", "UNIQUE", condition=True, sparse=True),
    Column("asExpected", "AS EXPECTED", condition=True, sparse=True),
    Column("lastReadTime", "LAST READ", age=True),
    Column("serials", "SERIALS"),
    Column("machine", "MACHINE", wide=True),
    Column("chassis", "CHASSIS", wide=True),
    Column("driverVersion", "DRIVER", wide=True),
    Column("policy", "POLICY", wide=True),
)

_GPUS: Final = (
    CLUSTER,
    Column("node", "NODE"),
    Column("machine", "MACHINE", wide=True),
    Column("state", "STATE", condition=True),
    Column("serial", "SERIAL"),
    Column("uuid", "UUID"),
    Column("chassis", "CHASSIS", wide=True),
    Column("slot", "SLOT", wide=True),
    Column("pci", "PCI"),
    Column("product", "PRODUCT"),
    Column("driver", "DRIVER", wide=True),
    Column("vbios", "VBIOS", wide=True),
    Column("boardPartNumber", "BOARD PART", wide=True),
    Column("gpuPartNumber", "GPU PART", wide=True),
    Column("gpuState", "GPU", condition=True),
    Column("lastRead", "LAST READ", wide=True, age=True),
    Column("quarantines", "QUARANTINES", sparse=True),
)

_AHEAD: Final = 200
"""The most nodes that `export` buffers when the clusters are faster than the output."""


async def list_nodes(clusters: Clusters, *, by_gpu: bool, output: str) -> bool:
    """Print the nodes, or their GPUs, sorted by cluster and name."""

    async def ask(cluster: Cluster) -> list[dict[str, Any]]:
        return [
            row
            async for inventory in cluster.inventories(with_history=False)
            for row in (_gpus(cluster, inventory) if by_gpu else [_node(cluster, inventory)])
        ]

    rows = [row for _, answer in await clusters.ask(ask) for row in answer]
    show(rows, _GPUS if by_gpu else _NODES, output=output, several=clusters.several)
    if not rows and clusters.reached:
        say(
            f"no nodes with GPUs found in {clusters.names}; the log of the operator says where it"
            " looked"
        )
    return True


async def export(clusters: Clusters, *, output: str) -> bool:
    """Print every GPU of all clusters as its page arrives, for a fleet of any size."""
    nodes: asyncio.Queue[list[dict[str, Any]] | None] = asyncio.Queue(_AHEAD)

    async def ask(cluster: Cluster) -> None:
        async for inventory in cluster.inventories(with_history=False):
            if rows := list(_gpus(cluster, inventory)):
                await nodes.put(rows)

    async def ask_all() -> None:
        try:
            await clusters.ask(ask)
        except Exception:
            await nodes.put(None)
            raise
        await nodes.put(None)

    asking = asyncio.create_task(ask_all())
    try:
        first = True
        if output == "csv":
            click.echo(csv_lines([[column.key for column in _GPUS]]), nl=False)
        while (rows := await nodes.get()) is not None:
            if output == "csv":
                click.echo(csv_lines(csv_row(row, _GPUS) for row in rows), nl=False)
            else:
                click.echo(b"[\n" if first else b",\n", nl=False)
                click.echo(b",\n".join(map(orjson.dumps, rows)), nl=False)
            first = False
        if output == "json":
            click.echo("[]" if first else "\n]")
        await asking
    finally:
        # The reader of a pipe may have left in the middle: nothing of it is to outlive the clients.
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    return True


def _node(cluster: Cluster, inventory: Inventory) -> dict[str, Any]:
    status = inventory.status
    return {
        "cluster": cluster.name,
        "node": inventory.name,
        "machine": status.node.machine if status.node else None,
        "state": status.state.value if status.state else None,
        "gpuCount": status.gpu_count,
        "product": status.product,
        "serials": status.serials or [],
        "chassis": status.chassis or [],
        "driverVersion": status.driver_version,
        "policy": status.policy or None,
        **_conditions(
            inventory,
            ready=ConditionType.READY,
            healthy=ConditionType.HEALTHY,
            quarantined=ConditionType.QUARANTINED,
            asExpected=ConditionType.AS_EXPECTED,
            unique=ConditionType.UNIQUE,
        ),
        "lastReadTime": format_time(status.last_read_time) if status.last_read_time else None,
    }


def _conditions(inventory: Inventory, **kinds: ConditionType) -> dict[str, str | None]:
    found = {name: find(inventory.status.conditions, kind) for name, kind in kinds.items()}
    return {name: one.status.value if one else None for name, one in found.items()}


def _gpus(cluster: Cluster, inventory: Inventory) -> Iterator[dict[str, Any]]:
    status = inventory.status
    gpus: Sequence[GPU] = status.gpus or ()
    for gpu in gpus:
        yield {
            "cluster": cluster.name,
            "node": inventory.name,
            "machine": status.node.machine if status.node else None,
            "state": status.state.value if status.state else None,
            "serial": gpu.serial,
            "uuid": gpu.uuid,
            "chassis": gpu.chassis_serial,
            "slot": gpu.slot,
            "pci": gpu.pci_address,
            "product": gpu.product,
            "driver": status.driver_version,
            "vbios": gpu.vbios,
            "boardPartNumber": gpu.board_part_number,
            "gpuPartNumber": gpu.gpu_part_number,
            "gpuState": gpu.state.value,
            "lastRead": format_time(status.last_read_time) if status.last_read_time else None,
            "quarantines": gpu.quarantines or [],
        }
