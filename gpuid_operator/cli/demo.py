"""`gpuid-operator demo`: a local cluster, the operator in it, and its output.

Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from gpuid_operator.api.inventory import Condition, ConditionStatus, ConditionType, Inventory
from gpuid_operator.api.meta import GROUP, INVENTORY_PLURAL, VERSION
from gpuid_operator.cli.cluster import SmiCommand, hardware_options
from gpuid_operator.cli.demo_guide import guide
from gpuid_operator.localcluster import ApiError, LocalCluster, LocalClusterError, ServerError
from gpuid_operator.localcluster.layout import MARKER
from gpuid_operator.localcluster.nodes import OPERATOR_NAMESPACE
from gpuid_operator.localcluster.ports import free_ports
from gpuid_operator.plan.conditions import find

DEFAULT_NODES: Final = 20
INTERRUPTED: Final = 130
"""Exit code after Ctrl-C before the table, as in shells."""

_STALLED: Final = 90.0
"""Seconds without a new result after which the demo stops waiting."""
_SECOND_LOOK: Final = 10.0
"""Seconds to wait for a retry of failed reads: the operator retries after 1, 2 and 4 seconds."""
_POLL: Final = 0.5
_OPERATOR_GRACE: Final = 12.0
_LOG_LINES: Final = 15


@dataclass(frozen=True)
class _Result:
    """The result of the last read of a node; `ready` is None before the first read."""

    node: str
    ready: Condition | None
    delivered: bool

    @property
    def good(self) -> bool:
        return self.ready is not None and self.ready.status is ConditionStatus.TRUE

    @property
    def trouble(self) -> str:
        if self.ready is None:
            return f"{self.node}  no result: the operator has not read the node"
        return f"{self.node}  {self.ready.reason}: {self.ready.message}"


@click.command(cls=SmiCommand)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the cluster, which is kept (default: a temporary directory).",
)
@hardware_options
@click.option(
    "--once", is_flag=True, help="Exit after the table, with 0 only if all nodes are Ready."
)
def demo(
    *, directory: Path | None, nodes: int | None, gpu: str, smi: tuple[Path, ...], once: bool
) -> None:
    """Run the operator in a local cluster of 20 simulated GPU nodes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A shell starts background jobs with SIGINT ignored.
        signal.signal(number, _interrupt)
    if nodes is None and not smi:
        nodes = DEFAULT_NODES
    shown = False
    try:
        with (
            _directory(directory) as place,
            _cluster(place, nodes, gpu, smi) as cluster,
            _operator(cluster) as operator,
        ):
            results = _wait_for_results(cluster, operator)
            good = _show(cluster, results)
            shown = True
            if not once:
                example = next((result.node for result in results.values() if result.good), None)
                click.echo(guide(cluster, node=example, log=_log_file(cluster)))
                operator.wait()
                raise _died(operator, cluster)
    except LocalClusterError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        if not shown:
            _say("interrupted; stopped the demo")
            sys.exit(INTERRUPTED)
        _say("stopped the demo")
        return
    sys.exit(0 if good else 1)


def _interrupt(number: int, _: Any) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _say(text: str) -> None:
    click.echo(text, err=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore a second Ctrl-C while the processes are stopped."""
    before = {
        number: signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _directory(given: Path | None) -> Iterator[Path]:
    """The directory of the cluster. A temporary one is removed, unless the demo failed."""
    if given is not None:
        yield given
        return
    # A short name: the sockets in it have a limit.
    place = Path(tempfile.mkdtemp(prefix="gpuid-demo-"))
    try:
        yield place
    except Exception:
        _say(f"the logs are in {place}")
        raise
    except BaseException:  # Ctrl-C
        _remove(place)
        raise
    else:
        _remove(place)


def _remove(place: Path) -> None:
    with _undisturbed():
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _cluster(
    place: Path, nodes: int | None, gpu: str, smi: tuple[Path, ...]
) -> Iterator[LocalCluster]:
    began = time.monotonic()
    _say("starting a local cluster (the first start on a machine builds it, which takes minutes)")
    cluster = LocalCluster.up(
        place,
        nodes=nodes,
        gpu=gpu,
        smi=smi,
        progress=lambda text: _say(f"  {time.monotonic() - began:4.0f} s  {text}"),
    )
    try:
        yield cluster
    finally:
        with _undisturbed():
            cluster.down()


@contextmanager
def _operator(cluster: LocalCluster) -> Iterator[subprocess.Popen[bytes]]:
    """The operator as a child in its own session, so that Ctrl-C reaches only this process."""
    # A minimal environment: variables of the user must not change the output of the demo.
    environment = {key: os.environ[key] for key in ("HOME", "PATH", "TMPDIR") if key in os.environ}
    environment |= {
        "KUBECONFIG": str(cluster.kubeconfig),
        "CLUSTER_NAME": "demo",
        "POD_NAMESPACE": OPERATOR_NAMESPACE,
        "SERVER_PORT": str(free_ports(1)[0]),
        # `cluster down` ends processes with this marker, even if this process was killed.
        MARKER: str(cluster.directory),
    }
    _say("starting the operator")
    with _log_file(cluster).open("wb") as log:
        operator = subprocess.Popen(
            [sys.executable, "-m", "gpuid_operator", "run"],
            env=environment,
            cwd=cluster.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield operator
    finally:
        with _undisturbed():
            operator.terminate()
            try:
                operator.wait(_OPERATOR_GRACE)
            except subprocess.TimeoutExpired:
                operator.kill()
                operator.wait()


def _log_file(cluster: LocalCluster) -> Path:
    return cluster.directory / "operator.log"


def _died(operator: subprocess.Popen[bytes], cluster: LocalCluster) -> LocalClusterError:
    log = _log_file(cluster)
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return LocalClusterError(
        f"the operator ended with exit code {operator.returncode}; the end of its log {log}:\n"
        + "\n".join(lines or ["(empty)"])
    )


def _wait_for_results(
    cluster: LocalCluster, operator: subprocess.Popen[bytes]
) -> dict[str, _Result]:
    """The result of each node. Failed reads have had time for retries."""
    known = (-1, -1, -1)
    last_news = time.monotonic()
    while True:
        if operator.poll() is not None:
            raise _died(operator, cluster)
        try:
            results = _results(cluster)
        except (ServerError, ApiError):
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
            _say(f"  read {good} of {nodes} nodes{failed}")
        if (good, settled, delivered) != known:
            known = (good, settled, delivered)
            last_news = time.monotonic()
        if good == delivered == nodes:
            return results
        silence = time.monotonic() - last_news
        if silence > (_SECOND_LOOK if settled == nodes else _STALLED):
            return results
        time.sleep(_POLL)


def _results(cluster: LocalCluster) -> dict[str, _Result]:
    items = cluster.client.get(f"/apis/{GROUP}/{VERSION}/{INVENTORY_PLURAL}")["items"]
    inventories = {item["metadata"]["name"]: Inventory.from_object(item) for item in items}
    results = {}
    for node in cluster.node_names:
        known = inventories.get(node)
        conditions = known.status.conditions if known else None
        delivered = find(conditions, ConditionType.DELIVERED)
        results[node] = _Result(
            node=node,
            ready=find(conditions, ConditionType.READY),
            delivered=delivered is not None and delivered.status is ConditionStatus.TRUE,
        )
    return results


def _show(cluster: LocalCluster, results: dict[str, _Result]) -> bool:
    """Print the table and the reason for each node that is not Ready; return whether all are."""
    click.echo("\n$ kubectl get gpuinventory", err=True)
    click.echo(cluster.kubectl("get", "gpuinventory").stdout, nl=False)
    troubles = [result.trouble for result in results.values() if not result.good]
    if troubles:
        click.echo("\nNot Ready:")
        for trouble in troubles:
            click.echo(f"  {trouble}")
    return not troubles
