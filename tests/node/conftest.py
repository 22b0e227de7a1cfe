"""The real node for tests, and the marker `node` on every test of this folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpuid_operator.localcluster import LocalCluster, RealNodeUnavailable, realnode
from tests.support.collection import build_servers, mark, will_run

_HERE = Path(__file__).parent


_FIRST = "test_claims.py"
"""It has a node of its own, with another containerd. Two kubelets on one machine end the pods of
each other, whose cgroups they do not know, so its node is gone before that of the others starts."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items, _HERE, pytest.mark.node)
    items.sort(key=lambda item: item.path != _HERE / _FIRST)


def pytest_collection_finish(session: pytest.Session) -> None:
    if will_run(session, _HERE) and _missing() is None:
        build_servers(real_node=True)


def _missing() -> str | None:
    try:
        realnode.check()
    except RealNodeUnavailable as reason:
        return str(reason)
    return None


@pytest.fixture(scope="session")
def node_cluster() -> Iterator[LocalCluster]:
    """A cluster with one simulated and one real node."""
    with real_node_cluster() as cluster:
        yield cluster


@contextmanager
def real_node_cluster() -> Iterator[LocalCluster]:
    """A cluster with one simulated and one real node.

    Where there can be none the tests skip, saying why; with CI in the environment they fail.
    """
    if reason := _missing():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    directory = Path(tempfile.mkdtemp(prefix="gpuid-"))
    cluster = LocalCluster.up(directory, nodes=1, real_node=True)
    yield cluster
    cluster.down()
    shutil.rmtree(directory)
