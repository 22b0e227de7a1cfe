"""The demo in a local cluster, which it starts and stops."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from gpuid_operator.api.meta import GROUP, INVENTORY_PLURAL, VERSION
from gpuid_operator.cli.demo.console import say, undisturbed
from gpuid_operator.cli.demo.guide import guide
from gpuid_operator.cli.demo.operator_process import run_operator
from gpuid_operator.cli.demo.results import Results, example, results_of, show, wait_for_results
from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.layout import MARKER
from gpuid_operator.localcluster.nodes import OPERATOR_NAMESPACE
from gpuid_operator.localcluster.ports import free_ports

DEFAULT_NODES: Final = 20


class LocalDemo:
    """One run of the demo."""

    def __init__(
        self, *, directory: Path | None, nodes: int | None, gpu: str, smi: tuple[Path, ...]
    ) -> None:
        self._given = directory
        self._nodes = DEFAULT_NODES if nodes is None and not smi else nodes
        self._gpu = gpu
        self._smi = smi
        self.shown = False
        """Whether the table was printed."""

    def __call__(self, *, once: bool) -> bool:
        """Run until Ctrl-C or, with `once`, until the table; return whether all nodes are Ready.

        Raises LocalClusterError, DemoError, KeyboardInterrupt.
        """
        with (
            self._directory() as place,
            self._cluster(place) as cluster,
            run_operator(cluster.directory, _environment(cluster)) as operator,
        ):
            results = wait_for_results(lambda: _results(cluster), operator)
            table = cluster.kubectl("get", "gpuinventory").stdout
            good = show("kubectl get gpuinventory", table, results)
            self.shown = True
            if not once:
                click.echo(guide(cluster, node=example(results), log=operator.log))
                operator.wait()
        return good

    @contextmanager
    def _directory(self) -> Iterator[Path]:
        """The directory of the cluster. A temporary one is removed, unless the demo failed."""
        if self._given is not None:
            yield self._given
            return
        # A short name: the sockets in it have a limit.
        place = Path(tempfile.mkdtemp(prefix="gpuid-demo-"))
        try:
            yield place
        except Exception:
            say(f"the logs are in {place}")
            raise
        except BaseException:  # Ctrl-C
            _remove(place)
            raise
        else:
            _remove(place)

    @contextmanager
    def _cluster(self, place: Path) -> Iterator[LocalCluster]:
        began = time.monotonic()
        say(
            "starting a local cluster (the first start on a machine builds it, which takes minutes)"
        )
        cluster = LocalCluster.up(
            place,
            nodes=self._nodes,
            gpu=self._gpu,
            smi=self._smi,
            controllers=False,  # their build takes a part of the first start
            progress=lambda text: say(f"  {time.monotonic() - began:4.0f} s  {text}"),
        )
        try:
            yield cluster
        finally:
            with undisturbed():
                cluster.down()


def _remove(place: Path) -> None:
    with undisturbed():
        shutil.rmtree(place, ignore_errors=True)


def _environment(cluster: LocalCluster) -> dict[str, str]:
    """A minimal environment: variables of the user must not change the output of the demo."""
    environment = {key: os.environ[key] for key in ("HOME", "PATH", "TMPDIR") if key in os.environ}
    return environment | {
        "KUBECONFIG": str(cluster.kubeconfig),
        "CLUSTER_NAME": "demo",
        "POD_NAMESPACE": OPERATOR_NAMESPACE,
        "SERVER_PORT": str(free_ports(1)[0]),
        # `cluster down` ends processes with this marker, even if this process was killed.
        MARKER: str(cluster.directory),
    }


def _results(cluster: LocalCluster) -> Results:
    items = cluster.client.get(f"/apis/{GROUP}/{VERSION}/{INVENTORY_PLURAL}")["items"]
    return results_of(cluster.node_names, items)
