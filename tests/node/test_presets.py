"""Presets in real containers: each finds the nvidia-smi of its installation's file system.

The pods have the labels, namespaces and containers of the installations. Their nvidia-smi under a
driver root is like the real one: it needs the libnvidia-ml of that root, and a library path breaks
it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import pytest

from gpuid_operator.localcluster import LocalCluster, images
from gpuid_operator.localcluster.smi import generate
from tests.support.objects_in_cluster import make_namespace, owned_by_node
from tests.support.operators import Operator, eventually, history, read_well, status, types
from tests.support.preset_pods import INSTALLED
from tests.support.smi_fixtures import facts

SMI: Final = generate("h100", node="presets")
IN_PATH: Final = b"#!/bin/sh\nexec cat /smi.xml\n"
UNDER_ROOT: Final = b"""#!/bin/sh
if [ -n "$LD_LIBRARY_PATH" ]; then echo "Segmentation fault" >&2; exit 139; fi
root=/$(echo "$0" | cut -d/ -f2)
case "$LD_PRELOAD" in
  "$root"/*/libnvidia-ml.so.1) ;;
  *) echo "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system." >&2; exit 12;;
esac
exec cat /smi.xml
"""
BY_NAME: Final = {pod.name: pod for pod in INSTALLED}
WAIT: Final = ("/bin/sh", "-c", "trap exit TERM; while sleep 1; do :; done")
PERIODS: Final = {"pod_grace": 1.0, "resync": 2.0}


@dataclass(frozen=True, slots=True)
class Image:
    """The file system of a container."""

    files: Mapping[str, bytes]
    shell: bool = True


IMAGES: Final = {
    "path": Image({"/bin/nvidia-smi": IN_PATH}),
    "gke": Image({"/usr/local/nvidia/bin/nvidia-smi": IN_PATH}),
    "driver-root": Image(
        {
            "/driver-root/usr/bin/nvidia-smi": UNDER_ROOT,
            "/driver-root/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1": b"of the driver",
            # That of the host is another version.
            "/host/usr/lib64/libnvidia-ml.so.1": b"of the host",
        }
    ),
    "host": Image(
        {
            "/host/usr/sbin/nvidia-smi": UNDER_ROOT,
            "/host/usr/lib64/libnvidia-ml.so.1": b"of the host",
        }
    ),
    "empty": Image({}),
    "no-shell": Image({}, shell=False),
}

CASES: Final = {
    "in PATH": ({"driver": "path"}, "driver"),
    "on GKE": ({"gke": "gke"}, "gke"),
    "the driver root of the DRA driver": ({"dra": "driver-root"}, "dra"),
    "the host root of the GPU Operator's DRA driver": (
        {"dra-of-gpu-operator": "host"},
        "dra-of-gpu-operator",
    ),
    "the host root of a device plugin without nvidia-smi": ({"plugin": "host"}, "plugin"),
    "the next where there is neither": ({"plugin": "empty", "dcgm": "path"}, "dcgm"),
    "the next where there is no shell": ({"dra-25.12": "no-shell", "reader": "path"}, "reader"),
}
"""The images of the pods on the node, and the pod in which it is read."""


def image_name(image: str) -> str:
    return f"gpuid.local/preset-{image}:test"


@pytest.fixture(scope="module", autouse=True)
def installed_images(node_cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("images")
    files, links = images.busybox()
    for name, image in IMAGES.items():
        images.build_image(
            folder / f"{name}.tar",
            name=image_name(name),
            files={**files, "/smi.xml": SMI.encode(), **image.files},
            links=links if image.shell else {},
            command=WAIT if image.shell else ["/bin/busybox", "sleep", "86400"],
            environment={"LD_LIBRARY_PATH": "/host/usr/lib64"},
        )
        node_cluster.import_image(folder / f"{name}.tar")
    for pod in INSTALLED:
        make_namespace(node_cluster, pod.namespace)


@pytest.fixture(scope="module")
def operator(node_cluster: LocalCluster) -> Iterator[Operator]:
    with Operator(node_cluster, periods=PERIODS, TARGETS="[{preset: auto}]") as operator:
        yield operator


def create(cluster: LocalCluster, name: str, image: str) -> tuple[str, str]:
    """A pod on the real node that looks like one of an installation. Returns its namespace and
    name, once it is ready."""
    pod = BY_NAME[name]
    place, called = pod.namespace, f"preset-{name.replace('.', '-')}"
    container = {
        "image": image_name(image),
        "imagePullPolicy": "Never",
        "securityContext": {"runAsUser": 65532, "allowPrivilegeEscalation": False},
    }
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": called,
            "namespace": place,
            "labels": pod.labels,
            **owned_by_node(cluster, cluster.real_node_name),
        },
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": cluster.real_node_name},
            "hostNetwork": True,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": one, **container} for one in pod.containers],
        },
    }

    def is_created() -> None:
        # A new namespace has no service account for a moment.
        done = cluster.kubectl("apply", "-f", "-", input=json.dumps(body), check=False)
        assert done.returncode == 0, done.stderr

    eventually(is_created)
    cluster.kubectl("wait", "-n", place, f"pod/{called}", "--for=condition=Ready", "--timeout=60s")
    return place, called


@pytest.mark.parametrize("case", CASES)
def test_nvidia_smi_is_found(node_cluster: LocalCluster, operator: Operator, case: str) -> None:
    node = node_cluster.real_node_name
    pods, expected = CASES[case]
    created = [create(node_cluster, name, image) for name, image in pods.items()]
    pod = BY_NAME[expected]

    def is_read() -> None:
        read_well(node_cluster, node)
        source = status(node_cluster, node)["source"]
        assert (source["namespace"], source["container"]) == (pod.namespace, pod.containers[0])

    eventually(is_read, within=60)
    found = status(node_cluster, node)
    assert found["gpus"] == facts(SMI)
    # No target so far changed anything.
    assert set(types(history(node_cluster, node))) == {"GPUAdded"}
    for place, name in created:
        node_cluster.kubectl("delete", "pod", "-n", place, name, "--wait=true", "--timeout=60s")
