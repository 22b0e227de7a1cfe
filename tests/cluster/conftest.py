"""Local clusters for tests, and the marker `cluster` on every test of this folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from tests.support.collection import build_servers, mark, will_run
from tests.support.operators import Operator, eventually, history, read_well, status
from tests.support.smi_fixtures import machine

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items, _HERE, pytest.mark.cluster)


def pytest_collection_finish(session: pytest.Session) -> None:
    if will_run(session, _HERE):
        build_servers(real_node=False)


@pytest.fixture(scope="session")
def local_cluster() -> Iterator[Callable[..., LocalCluster]]:
    """`local_cluster(nodes=3, …)` brings up a cluster in a directory of its own.

    The arguments are those of `LocalCluster.up`. All of them end with the session; a test that
    wants to be alone in one may call `.down()` itself.
    """
    clusters: list[LocalCluster] = []

    def up(**options: Any) -> LocalCluster:
        # Not under pytest's own folder: its names are too long for sockets.
        directory = Path(tempfile.mkdtemp(prefix="gpuid-"))
        cluster = LocalCluster.up(directory, **options)
        clusters.append(cluster)
        return cluster

    yield up
    for cluster in clusters:
        cluster.down()
        shutil.rmtree(cluster.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(local_cluster: Callable[..., LocalCluster]) -> LocalCluster:
    """A cluster of three nodes that tests share: leave its nodes as you found them."""
    return local_cluster(nodes=3)


@pytest.fixture(scope="module")
def fleet(local_cluster: Callable[..., LocalCluster]) -> Iterator[LocalCluster]:
    """A cluster without nodes for the tests of one module; `add_node` adds what they need."""
    cluster = local_cluster(nodes=0)
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def operator(fleet: LocalCluster) -> Iterator[Operator]:
    """The operator on `fleet`, with its defaults; a module may have one of its own."""
    with Operator(fleet) as operator:
        yield operator


@pytest.fixture
def node(fleet: LocalCluster, operator: Operator) -> str:
    """A node with two GPUs that was read."""
    name = f"gpu-of-test-{len(fleet.node_names)}"
    fleet.add_node(name, xml=machine(name))
    eventually(lambda: read_well(fleet, name))
    return name


@pytest.fixture
def change(fleet: LocalCluster, node: str) -> Callable[[str], list[dict[str, Any]]]:
    """Gives the node other hardware, restarts its plugin, and returns what history says of it."""

    def changed(xml: str) -> list[dict[str, Any]]:
        before = status(fleet, node)["sequence"]
        fleet.write_smi(node, xml)
        container = fleet.restart_plugin(node)

        def read() -> None:
            assert status(fleet, node)["source"]["containerID"] == container

        eventually(read)
        return [entry for entry in history(fleet, node) if entry["sequence"] > before]

    return changed
