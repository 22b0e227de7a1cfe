"""`kubectl gpuid read`: request reads and wait for their results."""

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

_AT_A_TIME: Final = 128
"""Nodes waited for at a time: the operator reads 64 at a time (WORKERS)."""
_PAUSE: Final = 0.5
"""Seconds between two GETs of an inventory."""
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
    """Read these nodes, or all nodes that are not departed; return whether all reads succeeded.

    `timeout` is the number of seconds to wait for each node.
    """

    async def ask(cluster: Cluster) -> bool:
        names = list(dict.fromkeys(nodes)) or [
            inventory.name
            async for inventory in cluster.inventories(with_history=False)
            if inventory.status.state is not InventoryState.DEPARTED
        ]
        if not names:
            say(f"no nodes with GPUs found in context {cluster.name}")
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
        if REQUESTED_AT in inventory.annotations:
            inventory = await cluster.inventory(node)
        else:  # it was created after the request, which did not find it
            inventory = await _request(cluster, node, token)
    return _Result(
        node,
        ready=False,
        reason="Unknown",
        message=f"context {cluster.name} has no GPUInventory with this name; check that the node"
        " has GPUs and that the operator is running",
    )


async def _request(cluster: Cluster, node: str, token: str) -> Inventory | None:
    """Request a read; return the inventory after that, or None."""
    if not could_be_node(node):
        return None
    # The next request shows whether the node or the kind is missing.
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
    """The result of the read, or None before its end."""
    status, name = inventory.status, inventory.name
    if status.state is InventoryState.DEPARTED:
        return _Result(
            name, ready=False, reason="Departed", message="the node has left the cluster"
        )
    ready = find(status.conditions, ConditionType.READY)
    # A later request of another client may have replaced the token: its read counts as well.
    asked = inventory.annotations.get(REQUESTED_AT)
    if not _handled(asked, status.last_handled_request):
        if ready is not None and ready.reason == _SUSPENDED:
            return _Result(
                name,
                ready=False,
                reason=_SUSPENDED,
                message="reads of this node are suspended by its GPUInventory or by its policy",
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
    """Whether the requested read has ended. The operator truncates a long token."""
    if asked is None or handled is None:
        return False
    return asked == handled or (handled.endswith("…") and asked.startswith(handled[:-1]))


def _unanswered(inventory: Inventory, timeout: float) -> _Result:
    ready = find(inventory.status.conditions, ConditionType.READY)
    last = ""
    if ready is not None and ready.status is not ConditionStatus.TRUE:
        last = f" (last read: {ready.reason}: {ready.message})"
    return _Result(
        inventory.name,
        ready=False,
        reason="NoAnswer",
        message=f"not read within {timeout:g} s; check that the operator is running and not"
        f" overloaded{last}",
    )


class _Printer:
    """Prints each result as a line when it arrives, or all results as JSON at the end."""

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
