"""What the operator found on each node, and the table of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from gpuid_operator.api.inventory import Condition, ConditionStatus, ConditionType, Inventory
from gpuid_operator.cli.demo.console import DemoError, say
from gpuid_operator.cli.demo.operator_process import OperatorProcess
from gpuid_operator.localcluster import ApiError, ServerError
from gpuid_operator.plan.conditions import find

_STALLED: Final = 90.0
"""Seconds without a new result after which the demo stops waiting."""
_SECOND_LOOK: Final = 10.0
"""Seconds to wait for a retry of failed reads: the operator retries after 1, 2 and 4 seconds."""
_POLL: Final = 0.5


@dataclass(frozen=True)
class Result:
    """The result of the last read of a node; `ready` is None before the first read."""

    node: str
    ready: Condition | None
    delivered: bool

    @property
    def good(self) -> bool:
        return self.ready is not None and self.ready.status is ConditionStatus.TRUE

    @property
    def trouble(self) -> str:
        """Why the node is not Ready."""
        if self.ready is None:
            return f"{self.node}  no result: the operator has not read the node"
        return f"{self.node}  {self.ready.reason}: {self.ready.message}"


Results = Mapping[str, Result]


def results_of(nodes: Sequence[str], items: Sequence[dict[str, Any]]) -> dict[str, Result]:
    """The result of each node, out of a list of GPUInventory objects."""
    inventories = {item["metadata"]["name"]: Inventory.from_object(item) for item in items}
    results = {}
    for node in nodes:
        known = inventories.get(node)
        conditions = known.status.conditions if known else None
        delivered = find(conditions, ConditionType.DELIVERED)
        results[node] = Result(
            node=node,
            ready=find(conditions, ConditionType.READY),
            delivered=delivered is not None and delivered.status is ConditionStatus.TRUE,
        )
    return results


def wait_for_results(look: Callable[[], Results], operator: OperatorProcess) -> Results:
    """The result of each node. Failed reads have had time for retries.

    `look` returns the results now. Raises DemoError if the operator ends, and the error of `look`
    if that fails for long.
    """
    known = (-1, -1, -1)
    last_news = time.monotonic()
    while True:
        operator.check()
        try:
            results = look()
        except (ServerError, ApiError, DemoError):
            # A busy API server may respond to a later request.
            if time.monotonic() - last_news > _STALLED:
                raise
            time.sleep(_POLL)
            continue
        nodes = len(results)
        good = sum(result.good for result in results.values())
        settled = sum(result.ready is not None for result in results.values())
        delivered = sum(result.delivered for result in results.values())
        if (good, settled) != known[:2]:
            failed = f", {settled - good} failed" if settled > good else ""
            say(f"  read {good} of {nodes} nodes{failed}")
        if (good, settled, delivered) != known:
            known = (good, settled, delivered)
            last_news = time.monotonic()
        if good == delivered == nodes:
            return results
        silence = time.monotonic() - last_news
        if silence > (_SECOND_LOOK if settled == nodes else _STALLED):
            return results
        time.sleep(_POLL)


def show(command: str, table: str, results: Results) -> bool:
    """Print the table, which `command` prints, too, and the reason for each node that is not Ready;
    return whether all are."""
    say(f"\n$ {command}")
    click.echo(table, nl=False)
    troubles = [result.trouble for result in results.values() if not result.good]
    if troubles:
        click.echo("\nNot Ready:")
        for trouble in troubles:
            click.echo(f"  {trouble}")
    return not troubles


def example(results: Results) -> str | None:
    """A node with a successful read."""
    return next((result.node for result in results.values() if result.good), None)
