"""Faults at the node with real execs: API server, the kubelet's stream, a simulated nvidia-smi."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.plan.smi import MAX_OUTPUT_BYTES
from tests.faults.campaign import SEED, WHOLE, Figures
from tests.support.check_scripts import put_policy
from tests.support.exec_proxy import ExecProxy
from tests.support.operators import (
    Operator,
    eventually,
    is_not_ready,
    read_again,
    read_well,
    request_read,
    status,
    types,
)
from tests.support.smi_fixtures import facts, lost, machine, moved, swapped, uuids

MB: Final = 1024 * 1024
ROUNDS: Final = 60 if WHOLE else 4
NODE: Final = "gpu-bad"
BYSTANDER: Final = "gpu-good"
BEHAVIOURS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "hangs": ({"hang": True}, "TimedOut"),
    "nothing": ({"stdout": ""}, "Incomplete"),
    "garbage": ({"stdout": "\x00\x07garbage"}, "Unparsable"),
    "300 KB": ({"stdout": "x" * 300_000}, "Unparsable"),
    "50 MB": ({"stdout": "y" * (50 * MB)}, "Unparsable"),
    "fails": ({"stdout": "", "stderr": "no", "exit": 3}, "ExecFailed"),
}
"""What nvidia-smi does instead, and the reason that the status shows."""


@pytest.fixture(scope="module")
def nodes(local_cluster: Callable[..., LocalCluster]) -> Iterator[LocalCluster]:
    """A cluster of its own: the node that fails, and one beside it."""
    cluster = local_cluster(nodes=0)
    for name in (NODE, BYSTANDER):
        cluster.add_node(name, xml=machine(name))
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def proxy(nodes: LocalCluster) -> Iterator[ExecProxy]:
    with ExecProxy(nodes) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def operator(nodes: LocalCluster, proxy: ExecProxy) -> Iterator[Operator]:
    log = {"name": "log", "stdout": {}, "records": "changes", "batch": {"maxWait": "0s"}}
    put_policy(nodes, "fleet", sinks=[log])
    with Operator(nodes, kubeconfig=proxy.kubeconfig, TIMEOUT="5s") as operator:
        eventually(lambda: read_well(nodes, NODE))
        eventually(lambda: read_well(nodes, BYSTANDER))
        yield operator


def memory(operator: Operator, field: str) -> int:
    """Bytes of memory of the operator's process: `VmRSS` now, `VmHWM` at most since `reset`."""
    text = Path(f"/proc/{operator.process.pid}/status").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


def reset_peak(operator: Operator) -> None:
    Path(f"/proc/{operator.process.pid}/clear_refs").write_text("5")


def test_a_fault_of_exec_concerns_its_node_only(
    nodes: LocalCluster,
    proxy: ExecProxy,
    operator: Operator,
    figures: Callable[[str], Figures],
) -> None:
    row = figures("real execs")
    before = status(nodes, NODE)
    for fault, (behaviour, reason) in BEHAVIOURS.items():
        row.injected += 1
        reset_peak(operator)
        rss, passed, runs = memory(operator, "VmRSS"), proxy.exec_bytes, nodes.exec_log(NODE)
        nodes.set_behaviour(NODE, **behaviour)
        request_read(nodes, NODE, f"during {fault}")
        eventually(lambda reason=reason: is_not_ready(nodes, NODE, reason))  # type: ignore[misc]
        read_again(nodes, BYSTANDER, f"beside {fault}")
        nodes.clear_behaviour(NODE)
        request_read(nodes, NODE, f"after {fault}")
        eventually(lambda: read_well(nodes, NODE))
        # Each run may print what is allowed, and what is under way in buffers.
        count = len(nodes.exec_log(NODE)) - len(runs)
        assert proxy.exec_bytes - passed <= count * 3 * MAX_OUTPUT_BYTES, fault
        assert memory(operator, "VmHWM") - rss <= 16 * MB, fault
        row.survived += 1
    after = status(nodes, NODE)
    assert after["gpus"] == before["gpus"]
    assert unsighted(after) == unsighted(before)


def unsighted(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in found["history"] if entry["type"] != "Sighted"]


def test_hardware_changes_during_cuts_and_deletions(
    nodes: LocalCluster,
    proxy: ExecProxy,
    operator: Operator,
    figures: Callable[[str], Figures],
) -> None:
    row = figures("cut execs")
    rng = random.Random(SEED)
    whole = nodes.smi_file(NODE).read_text()
    already = len(records(operator))
    for number in range(ROUNDS):
        before = status(nodes, NODE)["sequence"]
        what = rng.choice(("swap", "move", "lose"))
        index = rng.randrange(2)
        if what == "swap":
            xml = whole = swapped(whole, index, f"spare-{number}")
            expected = ["GPUAdded", "GPURemoved"]
        elif what == "move":
            xml = whole = moved(whole, index, f"{0x20 + number:02X}")
            expected = ["GPUMoved"]
        else:
            xml, expected = lost(whole, index), ["GPULost"]
        proxy.cut_after, cuts = rng.choice((1, 400, 5000)), proxy.cuts
        row.injected += 2
        nodes.write_smi(NODE, xml)
        if rng.random() < 0.5:
            nodes.set_behaviour(NODE, delay=0.5)
            runs = len(nodes.exec_log(NODE))
            request_read(nodes, NODE, f"round {number}")
            eventually(lambda runs=runs, cuts=cuts: begun(nodes, runs, proxy, cuts))  # type: ignore[misc]
            nodes.delete_pod(NODE)
            nodes.clear_behaviour(NODE)
            nodes.wait_plugin(NODE)
        else:
            nodes.restart_plugin(NODE)
        eventually(lambda cuts=cuts: cut_more(proxy, cuts))  # type: ignore[misc]
        proxy.cut_after = None
        eventually(lambda xml=xml: shows(nodes, xml))  # type: ignore[misc]
        if what == "lose":
            nodes.write_smi(NODE, whole)
            read_again(nodes, NODE, f"round {number} again")
            eventually(lambda whole=whole: shows(nodes, whole))  # type: ignore[misc]
            expected.append("GPURecovered")
        entries = [entry for entry in unsighted(status(nodes, NODE)) if entry["sequence"] > before]
        assert sorted(types(entries)) == expected, f"round {number}, {what}"
        row.expected += len(entries)
        row.survived += 2
    eventually(lambda: read_well(nodes, NODE))
    assert {gpu["uuid"] for gpu in status(nodes, NODE)["gpus"]} == set(uuids(whole))
    ids = [record["id"] for record in operator.records()]
    row.doubled = len(ids) - len(set(ids))
    assert row.doubled == 0
    row.delivered = len(records(operator)) - already
    assert row.delivered == row.expected


def records(operator: Operator) -> list[dict[str, Any]]:
    """Those of the node: its sink gets changes."""
    return [record for record in operator.records() if record["node"] == NODE]


def begun(nodes: LocalCluster, runs: int, proxy: ExecProxy, cuts: int) -> None:
    """nvidia-smi runs, or was cut off: with the first byte, perhaps before it ran."""
    assert len(nodes.exec_log(NODE)) > runs or proxy.cuts > cuts


def cut_more(proxy: ExecProxy, cuts: int) -> None:
    assert proxy.cuts > cuts


def shows(nodes: LocalCluster, xml: str) -> None:
    """A good read shows these GPUs."""
    read_well(nodes, NODE)
    keys = ("uuid", "pciAddress", "state")
    assert [[gpu[key] for key in keys] for gpu in status(nodes, NODE)["gpus"]] == [
        [gpu[key] for key in keys] for gpu in facts(xml)
    ]
