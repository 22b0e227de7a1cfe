"""What the tests of policy checks share: a cluster of two nodes, an operator, and a check."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from gpuid_operator.localcluster import LocalCluster
from tests.cluster.policy_checks.nodes import (
    NODES,
    ready,
)
from tests.support.check_scripts import (
    Probe,
    delete_policies,
)
from tests.support.operators import (
    Operator,
    eventually,
)
from tests.support.smi_fixtures import machine


@pytest.fixture(scope="package")
def fleet(local_cluster: Callable[..., LocalCluster]) -> Iterator[LocalCluster]:
    """One cluster for this folder."""
    cluster = local_cluster(nodes=0)
    yield cluster
    cluster.down()


@pytest.fixture(scope="package")
def cluster(fleet: LocalCluster) -> LocalCluster:
    for name in NODES:
        fleet.add_node(name, xml=machine(name))
    return fleet


@pytest.fixture(scope="package")
def operator(cluster: LocalCluster) -> Iterator[Operator]:
    with Operator(cluster, POLICY_CHECKS="true", WORKERS="8", TIMEOUT="10s") as operator:
        for node in NODES:
            eventually(partial(ready, cluster, node))
        yield operator


@pytest.fixture(scope="package")
def numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def probe(cluster: LocalCluster, numbers: Iterator[int]) -> Iterator[Probe]:
    """A check that passes everywhere, in no policy yet."""
    probe = Probe(cluster, f"probe-{next(numbers)}")
    for node in NODES:
        probe.answer(node, "echo fine")
    yield probe
    delete_policies(cluster)
