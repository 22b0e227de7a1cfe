"""Kills of the operator at one of its writes."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.api_fault_proxy import ApiFaultProxy, Position
from tests.support.operators import Operator, eventually


def kill_at(
    proxy: ApiFaultProxy,
    operator: Operator,
    skip: int,
    position: Position,
    *,
    does: Callable[[], object],
    settled: Callable[[], object],
) -> tuple[str, int]:
    """Let something happen and kill the operator at one of the writes that follow; which one it
    was, empty where fewer were enough, and how many came before it.

    `settled` fails until all that follows is written.
    """
    trap = proxy.set_trap(skip, position, operator.kill)
    does()

    def struck_or_through() -> None:
        if not trap.triggered.is_set():
            settled()
            is_quiet(proxy)

    eventually(struck_or_through)
    proxy.clear_trap()
    if not trap.request:
        return "", skip - trap.skip
    assert trap.triggered.wait(30), f"the kill at {trap.request} did not come"
    operator.restart()
    eventually(lambda: is_watched(proxy))
    return f"{position.name} {trap.request}", skip


def is_watched(proxy: ApiFaultProxy) -> None:
    """Pods, inventories, policies, quarantines and ResourceSlices: from then on every event
    arrives."""
    assert proxy.watches == 5


def is_quiet(proxy: ApiFaultProxy) -> None:
    assert proxy.is_quiet
