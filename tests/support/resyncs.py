"""Waits for re-syncs of an operator, which handle everything that is due."""

from __future__ import annotations

from gpuid_operator.localcluster import LocalCluster
from tests.support import audit
from tests.support.operators import eventually

PERIODS = {"resync": 1.0}
"""For `Operator(periods=…)`: a re-sync every second."""


def wait_for_resyncs(cluster: LocalCluster, count: int = 3) -> None:
    """Return once the operator has listed the inventories `count` times more.

    A re-sync puts every node into the queue again, so the nodes were looked at `count - 1` times
    at least. The audit log of the API server shows the lists.
    """
    before = lists(cluster)

    def listed() -> None:
        assert lists(cluster) >= before + count

    eventually(listed)


def lists(cluster: LocalCluster) -> int:
    """How often inventories were listed."""
    count = 0
    for event in audit.events(cluster):
        count += (event["verb"], event["objectRef"]["resource"]) == ("list", "gpuinventories")
    return count
