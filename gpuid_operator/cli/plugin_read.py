"""`kubectl gpuid read`: ask for reads, and wait for what comes out of them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import click
import orjson

from gpuid_operator.api.inventory import ConditionStatus, ConditionType, Inventory, InventoryState
from gpuid_operator.api.meta import REQUESTED_AT
from gpuid_operator.api.values import format_time
from gpuid_operator.cli.plugin_clusters import COLLECTION, Cluster, Clusters, could_be_node, say
from gpuid_operator.cli.plugin_table import printable
from gpuid_operator.kube.client import MERGE_PATCH, ONLY_METADATA, item
from gpuid_operator.kube.errors import KubeError, NotFound
from gpuid_operator.plan.conditions import find

_AT_A_TIME: Final = 32
"""Nodes waited for at a time: the operator reads 16 at a time (WORKERS)."""
_PAUSE: Final = 0.5
"""Seconds between two looks at a node."""
_SUSPENDED: Final = "Suspended"


@dataclass(frozen=True, slots=True)
class _Result:
    node: str
    ready: bool
    reason: str
    message: str = ""
    gpus: int | None = None
    driver: str | None = None
    seconds: float | None = None

    def to_json(self, cluster: str) -> dict[str, Any]:
        return {
            "cluster": cluster,
            "node": self.node,
            "ready": self.ready,
            "reason": self.reason,
            "message": self.message or None,
            "gpuCount": self.gpus,
            "driverVersion": self.driver,
            "seconds": self.seconds,
        }


async def read(clusters: Clusters, nodes: Sequence[str], *, timeout: float, output: str) -> bool:
    """Have these nodes read, all that are there when none is named; whether all went well.

    `timeout` is how many seconds to wait for each node.
    """

    async def ask(cluster: Cluster) -> bool:
        names = list(dict.fromkeys(nodes)) or [
            inventory.name
            async for inventory in cluster.inventories(with_history=False)
            if inventory.status.state is not InventoryState.DEPARTED
        ]
        if not names:
            say(f"no node with GPUs is known in context {cluster.name}")
        printer = _Printer(cluster.name, width=max(map(len, names), default=0), output=output)
        slots = asyncio.Semaphore(_AT_A_TIME)

        async def one(name: str) -> None:
            async with slots:
                printer.take(await _read(cluster, name, timeout=timeout))

        try:
            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(one(name))
        except ExceptionGroup as errors:
            # Not `except*`: Python 3.11.2, Debian 12's, puts what is raised there in a group again.
            known, others = errors.split(KubeError)
            if known is None or others is not None:
                raise
            raise known.exceptions[0] from None
        finally:
            printer.end()
        return printer.good

    return all(good for _, good in await clusters.ask(ask))


async def _read(cluster: Cluster, node: str, *, timeout: float) -> _Result:
    token = f"{format_time(datetime.now(UTC))}-{secrets.token_hex(4)}"
    began = time.monotonic()
    inventory = await _request(cluster, node, token)
    while inventory is not None:
        result = _outcome(inventory, seconds=time.monotonic() - began)
        if result is not None:
            return result
        if time.monotonic() - began > timeout:
            return _unanswered(inventory, timeout)
        await asyncio.sleep(_PAUSE)
        inventory = await cluster.inventory(node)
    return _Result(
        node,
        ready=False,
        reason="Unknown",
        message=f"context {cluster.name} has no GPUInventory of this name: is it a node with GPUs,"
        " and does the operator run?",
    )


async def _request(cluster: Cluster, node: str, token: str) -> Inventory | None:
    """Ask for a read; the inventory after that, None where there is none."""
    if not could_be_node(node):
        return None
    # Whether node or kind is missing, the next request tells.
    with suppress(NotFound):
        await cluster.client.request(
            "PATCH",
            item(COLLECTION, node),
            body={"metadata": {"annotations": {REQUESTED_AT: token}}},
            content_type=MERGE_PATCH,
            accept=ONLY_METADATA,
        )
    return await cluster.inventory(node)


def _outcome(inventory: Inventory, *, seconds: float) -> _Result | None:
    """What came out of the read; None while it has not ended."""
    status, name = inventory.status, inventory.name
    if status.state is InventoryState.DEPARTED:
        return _Result(name, ready=False, reason="Departed", message="the node is gone")
    ready = find(status.conditions, ConditionType.READY)
    # Someone may have asked again meanwhile: a read that began after that is ours too.
    asked = inventory.annotations.get(REQUESTED_AT)
    if not _handled(asked, status.last_handled_request):
        if ready is not None and ready.reason == _SUSPENDED:
            return _Result(
                name,
                ready=False,
                reason=_SUSPENDED,
                message="reads of this node are suspended, by its spec or its policy",
            )
        return None
    if ready is None or ready.status is not ConditionStatus.TRUE:
        return _Result(
            name,
            ready=False,
            reason=ready.reason if ready else "Unknown",
            message=ready.message if ready else "",
            seconds=round(seconds, 1),
        )
    return _Result(
        name,
        ready=True,
        reason=ready.reason,
        gpus=status.gpu_count,
        driver=status.driver_version,
        seconds=round(seconds, 1),
    )


def _handled(asked: str | None, handled: str | None) -> bool:
    """Whether the read that a token asked for has ended; of a long token its beginning is kept."""
    if asked is None or handled is None:
        return False
    return asked == handled or (handled.endswith("…") and asked.startswith(handled[:-1]))


def _unanswered(inventory: Inventory, timeout: float) -> _Result:
    ready = find(inventory.status.conditions, ConditionType.READY)
    last = ""
    if ready is not None and ready.status is not ConditionStatus.TRUE:
        last = f" (the last read: {ready.reason}: {ready.message})"
    return _Result(
        inventory.name,
        ready=False,
        reason="NoAnswer",
        message=f"not read within {timeout:g} s: does the operator run, and is it busy?{last}",
    )


class _Printer:
    """Prints results, as lines when they come, as JSON at the end."""

    def __init__(self, cluster: str, *, width: int, output: str) -> None:
        self.good = True
        self._cluster = cluster
        self._json = output == "json"
        self._format = f"{{:<{max(width, len('NODE'))}}}   {{:<5}}   {{:>4}}   {{:>7}}   {{}}"
        self._results: list[_Result] = []
        if not self._json and width:
            self._line("NODE", "READY", "GPUS", "SECONDS", "RESULT")

    def take(self, result: _Result) -> None:
        self.good = self.good and result.ready
        if self._json:
            self._results.append(result)
            return
        self._line(
            result.node,
            str(result.ready),
            "-" if result.gpus is None else str(result.gpus),
            "-" if result.seconds is None else f"{result.seconds:.1f}",
            f"driver {result.driver}" if result.ready else f"{result.reason}: {result.message}",
        )

    def end(self) -> None:
        if self._json:
            rows = [result.to_json(self._cluster) for result in self._results]
            click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2))

    def _line(self, *cells: str) -> None:
        click.echo(self._format.format(*(printable(cell) for cell in cells)).rstrip())
