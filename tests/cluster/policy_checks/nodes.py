"""The two nodes of the tests of policy checks, and what is expected of them."""

from __future__ import annotations

from typing import Any

from gpuid_operator.localcluster import LocalCluster
from tests.support.check_scripts import (
    Probe,
    policy_condition,
)
from tests.support.operators import (
    condition,
    eventually,
)

NODES = ("gpu-one", "gpu-two")
SECONDLY = "1s"


def ready(cluster: LocalCluster, node: str) -> None:
    assert condition(cluster, node) == ("True", "ReadOK")


def takes_effect(cluster: LocalCluster) -> None:
    assert policy_condition(cluster, "fleet", "Ready")[:2] == ("True", "InForce")


def becomes(probe: Probe, node: str, *outcome: object) -> None:
    def there() -> None:
        assert probe.outcome(node) == outcome

    eventually(there)


def more_runs(probe: Probe, node: str, count: int) -> None:
    assert probe.runs(node) >= count


def hosts(*names: str) -> dict[str, Any]:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(names)}
    return {"matchExpressions": [expression]}
