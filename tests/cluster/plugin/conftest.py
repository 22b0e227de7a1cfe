"""What the tests of `kubectl gpuid` share: a cluster, and a GPU that moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from gpuid_operator.cli.plugin import PROGRAM, cli
from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from gpuid_operator.localcluster.ports import free_ports
from tests.cluster.plugin.inventories import (
    UUID_1,
    UUID_2,
    entry,
    gpu,
    put,
)
from tests.support.operators import INVENTORIES


@pytest.fixture(scope="package")
def fleet(local_cluster: Callable[..., LocalCluster]) -> Iterator[LocalCluster]:
    """One cluster for this folder; each test leaves it without inventories."""
    cluster = local_cluster(nodes=0)
    yield cluster
    cluster.down()


@pytest.fixture
def config(fleet: LocalCluster) -> Iterator[Path]:
    """The kubeconfig of a cluster without any inventory."""
    yield fleet.kubeconfig
    fleet.client.send(Request("DELETE", INVENTORIES))


@pytest.fixture
def run(config: Path) -> Callable[..., Result]:
    def run(*words: str, kubeconfig: Path = config) -> Result:
        return CliRunner().invoke(
            cli, words, prog_name=PROGRAM, env={"KUBECONFIG": str(kubeconfig)}
        )

    return run


@pytest.fixture
def moved(fleet: LocalCluster, config: Path) -> None:
    """A GPU that was behind one node and is behind another, where its twin is too."""
    one, twin = gpu(UUID_1, "S/1"), gpu(UUID_2, "S/1", pciAddress="00000000:02:00.0")
    put(
        fleet,
        "n-a",
        history=[entry(1, "GPUAdded", one), entry(5, "GPURemoved", one)],
    )
    put(
        fleet,
        "n-b",
        gpus=[one | {"chassisSerial": "C1"}, twin],
        history=[
            entry(1, "GPUAdded", twin),
            entry(7, "GPUAdded", one, chassis="C1"),
            entry(8, "DriverChanged", None, **{"from": "565", "to": "570"}),
            entry(9, "GPULost", twin, message="nvidia-smi says that the GPU is lost"),
        ],
    )
    put(fleet, "n-c", gpus=[gpu("GPU-9", "S9")])


@pytest.fixture
def contexts(config: Path, tmp_path: Path) -> Path:
    """A kubeconfig with one cluster under two names, and one where nothing answers."""
    content = yaml.safe_load(config.read_text())
    (context,) = content["contexts"]
    (cluster,) = content["clusters"]
    (port,) = free_ports(1)
    down = cluster["cluster"] | {"server": f"https://127.0.0.1:{port}"}
    content["clusters"].append({"name": "down", "cluster": down})
    content["contexts"] = [
        {"name": name, "context": context["context"] | {"cluster": where}}
        for name, where in (("a", cluster["name"]), ("b", cluster["name"]), ("down", "down"))
    ]
    content["current-context"] = "b"
    file = tmp_path / "contexts"
    file.write_text(yaml.safe_dump(content))
    return file
