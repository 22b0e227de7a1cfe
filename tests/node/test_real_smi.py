"""The real nvidia-smi over a simulated NVML: what it prints, and the exec of it in a container.

The texts of errors are those of the program. NVML gives it only codes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gpuid_operator.api.inventory import GPUState
from gpuid_operator.localcluster import LocalCluster, images
from gpuid_operator.plan.failure import FailureReason, ReadError
from gpuid_operator.plan.smi import Reading, parse
from tests.support.gotools import real_nvidia_smi
from tests.support.operators import Operator, eventually, read_well, status
from tests.support.real_smi import LIBRARY, PROGRAM, Hardware, SimulatedGPU, glibc

FIRST = SimulatedGPU(
    "00000000:53:00.0", "GPU-11111111-2222-3333-4444-555555555501", "1650000000001"
)
SECOND = SimulatedGPU(
    "00000000:64:00.0", "GPU-11111111-2222-3333-4444-555555555502", "1650000000002"
)
NOT_SUPPORTED, LOST, RESET_REQUIRED = 3, 15, 16
SKIPPED = NO_PERMISSION, NOT_FOUND = (4, 6)
CODES = (*range(1, 28), 999)
"""Every error that this nvidia-smi has a text for; it crashes at any other."""
IMAGE = "gpuid.local/real-nvidia-smi:test"
ROOT = "/driver-root/usr"

Read = Callable[..., Reading]


@pytest.fixture(scope="module")
def smi() -> Path:
    return real_nvidia_smi()


@pytest.fixture
def read(smi: Path, tmp_path: Path) -> Read:
    """Runs nvidia-smi on this hardware and parses what it prints."""

    def read(*gpus: SimulatedGPU, init_code: int = 0, **variables: str) -> Reading:
        file = tmp_path / "hardware"
        file.write_text(Hardware(gpus, init_code).text())
        variables = {"SIMULATED_NVML": str(file), "LD_LIBRARY_PATH": str(smi), **variables}
        done = subprocess.run(
            [smi / PROGRAM, "-q", "-x"],
            env=os.environ | variables,
            capture_output=True,
            check=False,
        )
        return parse(done.stdout, exit_code=done.returncode, stderr=done.stderr)

    return read


def test_every_fact_that_this_nvml_knows(read: Read) -> None:
    reading = read(FIRST, SECOND)
    assert (reading.driver_version, reading.cuda_version) == ("535.0", "12.2")
    first, second = reading.gpus
    assert first.to_json() == {
        "uuid": FIRST.uuid,
        "serial": FIRST.serial,
        "pciAddress": FIRST.bus_id,
        "index": 0,
        "product": "NVIDIA H100 80GB HBM3",
        "architecture": "Hopper",
        "vbios": "96.00.B1.00.01",
        "boardPartNumber": "692-2G520-0210-001",
        "moduleID": 1,
        "mig": "Disabled",
        "virtualization": "None",
        "state": "OK",
        "health": {
            "eccUncorrected": 2,
            "remappedRowsPending": True,
            "remappedRowsFailed": False,
        },
    }
    assert (second.uuid, second.serial, second.module_id) == (SECOND.uuid, SECOND.serial, 2)


@pytest.mark.parametrize("code", CODES)
def test_no_error_of_nvml_is_a_value(read: Read, code: int) -> None:
    first, second = read(FIRST, replace(SECOND, code=code)).gpus
    assert (first.uuid, first.state) == (FIRST.uuid, GPUState.OK)
    states = {LOST: "Lost", RESET_REQUIRED: "ResetRequired"}
    assert second.to_json() == {
        "pciAddress": SECOND.bus_id,
        "index": 1,
        "state": states.get(code, "Unknown"),
    }


@pytest.mark.parametrize("code", [code for code in CODES if code != NOT_SUPPORTED])
def test_a_driver_that_does_not_answer(read: Read, code: int) -> None:
    with pytest.raises(ReadError) as raised:
        read(FIRST, init_code=code)
    assert raised.value.reason is FailureReason.DRIVER_NOT_LOADED


def test_a_missing_library(read: Read) -> None:
    with pytest.raises(ReadError, match="couldn't find libnvidia-ml") as raised:
        read(FIRST, LD_LIBRARY_PATH="")
    assert raised.value.reason is FailureReason.DRIVER_NOT_LOADED


def test_the_library_of_a_driver_root_by_preload(read: Read, smi: Path) -> None:
    reading = read(FIRST, LD_LIBRARY_PATH="", LD_PRELOAD=str(smi / LIBRARY))
    assert [gpu.uuid for gpu in reading.gpus] == [FIRST.uuid]


@pytest.mark.parametrize("code", [code for code in CODES if code not in SKIPPED])
def test_a_gpu_that_cannot_be_opened_hides_the_others(read: Read, code: int) -> None:
    """nvidia-smi prints one line instead of the document, so nothing is said of any GPU."""
    with pytest.raises(ReadError, match="Unable to determine the device handle") as raised:
        read(FIRST, replace(SECOND, handle_code=code))
    assert raised.value.reason is FailureReason.EXEC_FAILED


@pytest.mark.parametrize("code", SKIPPED)
def test_a_gpu_that_nvidia_smi_skips_is_not_a_missing_one(read: Read, code: int) -> None:
    """It prints the others without a word."""
    with pytest.raises(ReadError, match="reports 2 attached GPUs but lists 1") as raised:
        read(FIRST, replace(SECOND, handle_code=code))
    assert raised.value.reason is FailureReason.INCOMPLETE


def test_a_gpu_without_a_pci_address_is_an_error_with_its_text(read: Read) -> None:
    with pytest.raises(ReadError) as raised:
        read(FIRST, replace(SECOND, bus_id="?", code=LOST))
    assert raised.value.message.startswith(
        "nvidia-smi -q -x reports 2 attached GPUs but lists 1 and “Unable to determine the PCI bus"
        " id for the target device: GPU is lost”; retrying"
    )


def test_no_gpu_at_all(read: Read) -> None:
    with pytest.raises(ReadError, match="No devices were found") as raised:
        read()
    assert raised.value.reason is FailureReason.EXEC_FAILED


@pytest.fixture
def driver_root(node_cluster: LocalCluster, smi: Path, tmp_path: Path) -> Iterator[None]:
    """A pod on the real node like those of NVIDIA's DRA driver, whose driver is in a folder."""
    files, links = images.busybox()
    files |= {
        "/hardware": Hardware((FIRST, SECOND)).text().encode(),
        **glibc(smi),
        f"{ROOT}/bin/{PROGRAM}": smi / PROGRAM,
        f"{ROOT}/lib/{LIBRARY}": smi / LIBRARY,
        # With a library path, nvidia-smi would load the C library of another system.
        f"{ROOT}/lib/libc.so.6": b"of another system",
    }
    images.build_image(
        tmp_path / "image.tar",
        name=IMAGE,
        files=files,
        links=links,
        command=["/bin/sh", "-c", "trap exit TERM; while sleep 1; do :; done"],
        environment={"SIMULATED_NVML": "/hardware", "LD_LIBRARY_PATH": f"{ROOT}/lib"},
    )
    node_cluster.import_image(tmp_path / "image.tar")
    labels = {"app": "nvidia-dra-driver-kubelet-plugin"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "real-smi", "namespace": "gpu-operator", "labels": labels},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node_cluster.real_node_name},
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "gpus", "image": IMAGE, "imagePullPolicy": "Never"}],
        },
    }
    node_cluster.kubectl("create", "-f", "-", input=json.dumps(pod))
    yield
    node_cluster.kubectl("delete", "pod", "-n", "gpu-operator", "real-smi")


def test_the_preset_of_the_dra_driver_runs_it(
    node_cluster: LocalCluster, driver_root: None
) -> None:
    node = node_cluster.real_node_name
    with Operator(node_cluster, TARGETS="[{preset: dra-driver, namespace: gpu-operator}]"):

        def is_read() -> None:
            gpus = status(node_cluster, node)["gpus"]
            assert [gpu["serial"] for gpu in gpus] == [FIRST.serial, SECOND.serial]
            assert [gpu["health"]["eccUncorrected"] for gpu in gpus] == [2, 2]
            read_well(node_cluster, node)

        # Other tests may have left an inventory of the node.
        eventually(is_read, within=90)
