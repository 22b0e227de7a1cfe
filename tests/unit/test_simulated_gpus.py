"""The program of deployment/simulated, run as the container runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuid_operator.api.inventory import GPU, GPUHealth, GPUState
from gpuid_operator.plan.smi import Reading, parse

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "deployment" / "simulated" / "simulated_gpus.py"


class Container:
    """The container of one node: its volume outlives it."""

    def __init__(self, state: Path, node: str) -> None:
        state.mkdir(exist_ok=True)
        self._environment = {"NODE_NAME": node, "STATE_DIR": str(state), "GPUS": "8"}
        self._environment["PATH"] = f"{state}/bin:{os.environ['PATH']}"
        self.main = subprocess.Popen(
            [sys.executable, PROGRAM], env=self._environment, stdout=subprocess.PIPE, text=True
        )
        assert self.main.stdout
        assert self.main.stdout.readline() == f"8 simulated GPUs on {node}\n"

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        # The shell searches the PATH of the container.
        return subprocess.run(
            ["/bin/sh", "-c", '"$@"', "sh", *command],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def read(self) -> Reading:
        done = self.exec("nvidia-smi", "-q", "-x")
        assert (done.returncode, done.stderr) == (0, "")
        return parse(done.stdout.encode())

    def end(self) -> None:
        if self.main.poll() is None:
            self.main.kill()
        self.main.communicate()


class Node:
    """A node whose container can be started again."""

    def __init__(self, state: Path, name: str) -> None:
        self._state, self._name = state, name
        self.container = Container(state, name)

    def restart(self) -> None:
        self.container.end()
        self.container = Container(self._state, self._name)

    def gpus(self) -> tuple[GPU, ...]:
        return self.container.read().gpus


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "state", "kind-worker")
    yield node
    node.container.end()


def identities(gpus: tuple[GPU, ...]) -> list[tuple[str | None, str | None]]:
    return [(gpu.serial, gpu.uuid) for gpu in gpus]


def test_the_operator_reads_eight_healthy_gpus(node: Node) -> None:
    reading = node.container.read()
    assert (reading.driver_version, reading.cuda_version) == ("570.86.15", "12.8")
    assert len(reading.gpus) == 8
    assert len({gpu.serial for gpu in reading.gpus}) == len({gpu.uuid for gpu in reading.gpus}) == 8
    gpu = reading.gpus[1]
    assert (gpu.product, gpu.architecture) == ("NVIDIA H100 80GB HBM3", "Hopper")
    assert (gpu.vbios, gpu.pci_address, gpu.module_id) == ("96.00.B1.00.01", "00000000:64:00.0", 2)
    assert (gpu.board_part_number, gpu.gpu_part_number) == ("692-2G520-0210-001", "2330-885-A1")
    assert (gpu.state, gpu.mig, gpu.chassis_serial) == (GPUState.OK, "Disabled", None)
    assert gpu.health == GPUHealth(
        recovery_action="None",
        ecc_uncorrected=0,
        remapped_rows_pending=False,
        remapped_rows_failed=False,
    )


def test_the_list_names_the_same_gpus(node: Node) -> None:
    lines = node.container.exec("nvidia-smi", "-L").stdout.splitlines()
    assert [line.partition("UUID: ")[2].rstrip(")") for line in lines] == [
        gpu.uuid for gpu in node.gpus()
    ]


def test_a_restart_keeps_the_gpus_and_another_node_has_others(node: Node, tmp_path: Path) -> None:
    before = identities(node.gpus())
    node.restart()
    assert identities(node.gpus()) == before
    other = Container(tmp_path / "other", "kind-worker2")
    try:
        assert not set(identities(other.read().gpus)) & set(before)
    finally:
        other.end()


def test_a_swap_replaces_one_gpu_and_ends_the_container(node: Node) -> None:
    before = node.gpus()
    done = node.container.exec("swap-gpu", "3")
    # It is not killed with the container: kubectl exec reports success.
    assert (done.returncode, done.stderr) == (0, "")
    assert node.container.main.wait(timeout=30) == 0
    node.restart()
    after = node.gpus()
    assert f"replaced GPU 3: serial {before[3].serial} by {after[3].serial}\n" in done.stdout
    assert [old != new for old, new in zip(before, after, strict=True)] == [
        index == 3 for index in range(8)
    ]
    assert before[3].pci_address == after[3].pci_address
    assert not set(identities(after[3:4])) & set(identities(before))

    node.container.exec("swap-gpu", "3")
    node.container.main.wait(timeout=30)
    node.restart()
    assert node.gpus()[3].serial not in {before[3].serial, after[3].serial}


@pytest.mark.parametrize("arguments", [(), ("8",), ("-1",), ("+1",), ("GPU-1",), ("1", "2")])
def test_a_swap_of_no_gpu_changes_nothing(node: Node, arguments: tuple[str, ...]) -> None:
    before = node.gpus()
    done = node.container.exec("swap-gpu", *arguments)
    assert (done.returncode, done.stderr) == (1, "usage: swap-gpu INDEX, from 0 to 7\n")
    assert node.gpus() == before
    assert node.container.main.poll() is None


def test_another_use_of_nvidia_smi_says_what_is_simulated(node: Node) -> None:
    done = node.container.exec("nvidia-smi", "--query-gpu=serial")
    assert done.returncode == 1
    assert done.stderr == "the simulated nvidia-smi takes -q -x, or -L\n"


def test_the_end_of_the_pod_takes_no_grace_period(node: Node) -> None:
    node.container.main.send_signal(signal.SIGTERM)
    assert node.container.main.wait(timeout=30) == 0


def test_the_readme_shows_what_a_swap_on_kind_prints(tmp_path: Path) -> None:
    container = Container(tmp_path / "state", "kind-control-plane")
    try:
        printed = container.exec("swap-gpu", "0").stdout
    finally:
        container.end()
    assert printed
    assert printed in (ROOT / "README.md").read_text()
