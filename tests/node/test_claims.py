"""Reader pods with a claim (mode dra of the chart): scheduler, kubelet, DRA driver, CDI.

The driver is Kubernetes' example, whose GPUs are environment variables. The nvidia-smi of the
readers' image insists on them as a real one does on device files.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.smi import generate
from gpuid_operator.plan.smi import parse
from tests.node.conftest import real_node_cluster
from tests.node.smi_image import import_smi_image
from tests.support.gotools import go_tool
from tests.support.manifests import CHART, environment, render
from tests.support.operators import Operator, eventually, is_not_ready, read_well, status

DRIVER = "gpu.example.com"
READERS = "gpuid-operator-reader"
IMAGE = "gpuid.local/reader:claims"
SMI = generate("h100", node="claimed", gpus=2, pad_to=0)
NVIDIA_SMI = b"""#!/bin/sh
[ "$DRA_ADMIN_ACCESS $GPU_DEVICE_0 $GPU_DEVICE_1" = "true gpu-0 gpu-1" ] && exec cat /smi.xml
echo No devices were found
exit 6
"""
PYTHON = b"#!/bin/sh\ntrap exit TERM\nwhile sleep 1; do :; done\n"
"""Stands for the operator's image, whose readers sleep in a program of Python."""
VALUES: dict[str, Any] = {
    "crds": {"install": False},
    "replicaCount": 0,
    "image": {"registry": "gpuid.local", "repository": "reader", "tag": "claims"},
    "targets": [],
    "reader": {
        "enabled": True,
        "mode": "dra",
        "dra": {"deviceClassName": DRIVER},
        "nodeSelector": {"nvidia.com/gpu.present": None},
        "tolerations": [{"operator": "Exists"}],
        # The pod that stays Pending on the simulated node is one of them.
        "updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}},
    },
}

pytestmark = pytest.mark.timeout(300)


class ExampleDriver:
    """The DRA driver of the real node, as a process beside its kubelet."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, gpus: int) -> None:
        """Start it; returns when its ResourceSlices have that many GPUs."""
        node = self._cluster.directory / "real-node"
        options = {
            "node-name": self._cluster.real_node_name,
            "num-devices": gpus,
            "cdi-root": node / "cdi",
            "kubelet-registrar-directory-path": node / "kubelet" / "plugins_registry",
            "kubelet-plugins-directory-path": node / "kubelet" / "plugins",
            "kubeconfig": self._cluster.kubeconfig,
        }
        log = self._cluster.directory / "logs" / "dra-example-driver.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [str(go_tool("dra-example-driver")), *(f"--{k}={v}" for k, v in options.items())],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

        def published() -> None:
            slices = get(self._cluster, "resourceslices")
            devices = [one for item in slices for one in item["spec"].get("devices", ())]
            assert len(devices) == gpus, log.read_text()[-2000:]

        eventually(published, within=60)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)


def get(cluster: LocalCluster, what: str, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        cluster.kubectl("get", what, "-o", "json", *options).stdout
    )["items"]
    return found


def readers(cluster: LocalCluster) -> dict[str, dict[str, Any]]:
    """The reader pods that are to stay, by the node that they are for."""
    return {
        item["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ][0]["matchFields"][0]["values"][0]: item
        for item in get(cluster, "pods", "-n", READERS)
        if "deletionTimestamp" not in item["metadata"]
    }


def running(cluster: LocalCluster, *, instead_of: str = "") -> str:
    """The name of the reader pod on the real node, once it runs."""

    def ready() -> str:
        pod = readers(cluster)[cluster.real_node_name]
        assert pod["metadata"]["name"] != instead_of
        assert [one["ready"] for one in pod["status"].get("containerStatuses", ())] == [True]
        return str(pod["metadata"]["name"])

    return eventually(ready, within=90)


def seen(cluster: LocalCluster, pod: str) -> set[str]:
    """The GPUs that a container of a pod has."""
    done = cluster.kubectl("exec", "-n", READERS, pod, "--", "env")
    variables = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    return {text for text in variables.values() if text.startswith("gpu-")}


def helm(cluster: LocalCluster, *arguments: str, values: dict[str, Any] | None = None) -> None:
    options = ("--namespace", "gpuid", f"--kubeconfig={cluster.kubeconfig}")
    command = [str(go_tool("helm3")), *arguments, *options]
    text = yaml.safe_dump(values) if values is not None else ""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster whose containerd knows CDI, with a device class and the image of the readers."""
    folder = Path(tempfile.mkdtemp(prefix="gpuid-containerd-"))
    for name in ("containerd", "containerd-shim-runc-v2"):
        (folder / name).symlink_to(go_tool(name))
    go_tool("dra-example-driver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        with real_node_cluster() as made:
            device_class = {
                "apiVersion": "resource.k8s.io/v1",
                "kind": "DeviceClass",
                "metadata": {"name": DRIVER},
                "spec": {"selectors": [{"cel": {"expression": f"device.driver == '{DRIVER}'"}}]},
            }
            made.kubectl("apply", "-f", "-", input=json.dumps(device_class))
            other = {"/bin/python3": PYTHON}
            import_smi_image(made, folder, IMAGE, SMI, script=NVIDIA_SMI, other=other)
            yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def driver(cluster: LocalCluster) -> Iterator[ExampleDriver]:
    driver = ExampleDriver(cluster)
    driver.start(gpus=2)
    yield driver
    driver.stop()


@pytest.fixture(scope="module")
def release(cluster: LocalCluster, driver: ExampleDriver) -> Iterator[None]:
    """The chart with readers, and without an operator of its own; nothing of it is left behind."""
    helm(cluster, "install", "gpuid-operator", str(CHART), "--values", "-", values=VALUES)
    yield
    helm(cluster, "uninstall", "gpuid-operator", "--wait", "--timeout=90s")
    assert READERS not in {item["metadata"]["name"] for item in get(cluster, "namespaces")}


@pytest.fixture
def tenant(cluster: LocalCluster, driver: ExampleDriver) -> Iterator[None]:
    """A pod that has all GPUs of the real node for itself."""
    request = {"deviceClassName": DRIVER, "allocationMode": "All"}
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "tenant", "namespace": "default"},
        "spec": {"spec": {"devices": {"requests": [{"name": "gpus", "exactly": request}]}}},
    }
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "resources": {"claims": [{"name": "gpus"}]},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "tenant", "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "tenant"}],
        },
    }
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([template, pod]))
    cluster.kubectl("wait", "pod/tenant", "--for=condition=Ready", "--timeout=90s")
    yield
    cluster.kubectl("delete", "pod/tenant", "resourceclaimtemplate/tenant")


def test_a_node_is_read_through_a_claim_that_takes_no_gpu(
    cluster: LocalCluster, tenant: None, release: None
) -> None:
    """Also where another pod has the GPUs."""
    pod = running(cluster)
    assert seen(cluster, pod) == {"gpu-0", "gpu-1"}
    with Operator(cluster, TARGETS=environment(render(values=VALUES))["TARGETS"]):
        eventually(lambda: read_well(cluster, cluster.real_node_name))
        found = status(cluster, cluster.real_node_name)
    source = found["source"]
    assert (source["namespace"], source["pod"], source["container"]) == (READERS, pod, "reader")
    assert [gpu["uuid"] for gpu in found["gpus"]] == [gpu.uuid for gpu in parse(SMI.encode()).gpus]
    phase = cluster.kubectl("get", "pod/tenant", "-o", "jsonpath={.status.phase}").stdout
    assert phase == "Running"
    cluster.kubectl("delete", "pod", "-n", READERS, pod)
    assert seen(cluster, running(cluster, instead_of=pod)) == {"gpu-0", "gpu-1"}


def test_a_node_without_a_device_has_no_running_reader(
    cluster: LocalCluster, release: None
) -> None:
    running(cluster)
    (simulated,) = cluster.node_names

    def waits() -> None:
        conditions = readers(cluster)[simulated]["status"]["conditions"]
        (scheduled,) = [one for one in conditions if one["type"] == "PodScheduled"]
        assert scheduled["reason"] == "Unschedulable"
        assert "cannot allocate all claims" in scheduled["message"]

    eventually(waits)
    with Operator(cluster, TARGETS=environment(render(values=VALUES))["TARGETS"]):
        eventually(lambda: is_not_ready(cluster, simulated, "NoTargetPod"))


def test_a_gpu_that_its_driver_tainted_is_claimed(cluster: LocalCluster, release: None) -> None:
    """On the simulated node, where the claim counts only for the scheduler."""
    (simulated,) = cluster.node_names
    taint = {"key": "example.com/broken", "effect": "NoExecute"}
    tainted = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": "tainted"},
        "spec": {
            "driver": DRIVER,
            "nodeName": simulated,
            "pool": {"name": simulated, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0", "taints": [taint]}],
        },
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(tainted))

    def allocated() -> None:
        owner = readers(cluster)[simulated]["metadata"]["name"]
        claims = [
            item
            for item in get(cluster, "resourceclaims", "-n", READERS)
            if item["metadata"]["ownerReferences"][0]["name"] == owner
        ]
        (device,) = claims[0]["status"]["allocation"]["devices"]["results"]
        assert (device["pool"], device["device"]) == (simulated, "gpu-0")

    eventually(allocated)
    (kept,) = get(cluster, "resourceslices", "--field-selector", "metadata.name=tainted")
    assert kept["spec"]["devices"][0]["taints"][0]["key"] == taint["key"]
    cluster.kubectl("delete", "resourceslice", "tainted")


def test_an_upgrade_can_change_the_claim(cluster: LocalCluster, release: None) -> None:
    """A template is immutable, and so is the claim of a pod: both are replaced."""
    pod = running(cluster)
    options = ("--values", "-", "--set-json", "reader.dra.tolerations=[]")
    helm(cluster, "upgrade", "gpuid-operator", str(CHART), *options, values=VALUES)
    assert seen(cluster, running(cluster, instead_of=pod)) == {"gpu-0", "gpu-1"}
    (template,) = get(cluster, "resourceclaimtemplates", "-n", READERS)
    (request,) = template["spec"]["spec"]["devices"]["requests"]
    assert "tolerations" not in request["exactly"]


def test_a_new_pod_claims_gpus_that_were_added(
    cluster: LocalCluster, driver: ExampleDriver, release: None
) -> None:
    """As docs/install.md says: an allocated claim stays as it is."""
    pod = running(cluster)
    driver.stop()
    driver.start(gpus=3)
    assert seen(cluster, pod) == {"gpu-0", "gpu-1"}
    cluster.kubectl("delete", "pod", "-n", READERS, pod)
    assert seen(cluster, running(cluster, instead_of=pod)) == {"gpu-0", "gpu-1", "gpu-2"}
