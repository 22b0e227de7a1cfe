"""ResourceSlices and claims on a real API server: GPU nodes without capacity, and reads through a
claim."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gpuid_operator.cli.plugin import PROGRAM, cli
from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from gpuid_operator.localcluster.nodes import TARGET_NAMESPACE, node
from tests.cluster.test_operator_access import (
    EVENTS,
    EXEC,
    FOOTPRINT,
    PODS,
    apply,
    role,
    service_account,
)
from tests.support.operators import (
    INVENTORIES,
    Operator,
    condition,
    eventually,
    history,
    is_not_ready,
    read_again,
    read_well,
    status,
    types,
    writes,
)
from tests.support.resource_slices import DRIVER, PRODUCT, gpus, mig, resource_slice, slice_path
from tests.support.smi_fixtures import machine, swapped, uuids, without

READERS = "gpuid-readers"
"""A namespace whose pods may have claims with admin access."""
TARGETS = json.dumps(
    [
        {"namespace": READERS, "selector": "app=reader"},
        {"namespace": TARGET_NAMESPACE, "selector": "app=nvidia-device-plugin-daemonset"},
    ]
)
PERIODS = {"resync": 2.0, "pod_grace": 1.0}


@pytest.fixture(scope="module")
def operator(fleet: LocalCluster) -> Iterator[Operator]:
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": READERS,
            "labels": {"resource.kubernetes.io/admin-access": "true"},
        },
    }
    device_class = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": DRIVER},
        "spec": {
            "selectors": [
                {"cel": {"expression": f"device.driver == '{DRIVER}'"}},
            ]
        },
    }
    apply(fleet, namespace, device_class)
    with Operator(fleet, TARGETS=TARGETS, periods=PERIODS) as operator:
        yield operator


def bare_node(fleet: LocalCluster, name: str, *, capacity: int = 0) -> None:
    """A GPU node without label and target pod and, as DRA leaves it, without capacity."""
    body = node(
        name,
        gpus=capacity,
        product=PRODUCT,
        instance_type="p5.48xlarge",
        provider_id=None,
        labels={"nvidia.com/gpu.present": "false"},
        object_bytes=None,
    )
    for field in ("capacity", "allocatable") if not capacity else ():
        rest = {k: v for k, v in body["status"][field].items() if k != "nvidia.com/gpu"}
        body["status"][field] = rest
    fleet.client.send(Request("POST", "/api/v1/nodes", body))


def set_label(fleet: LocalCluster, name: str, value: str) -> None:
    """Set the label that says whether a node has GPUs; its device plugin comes or goes."""
    fleet.kubectl("label", "node", name, f"nvidia.com/gpu.present={value}", "--overwrite")


def publish(fleet: LocalCluster, node: str, devices: list[dict[str, Any]], **how: Any) -> None:
    """Create a slice, or write it again, as the driver does."""
    body = resource_slice(node, devices, **how)
    path = slice_path(body["metadata"]["name"])
    known = fleet.client.send(Request("GET", path, tolerate=(404,)))
    if known is None:
        fleet.client.send(Request("POST", path.rpartition("/")[0], body))
    else:
        body["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"]
        fleet.client.send(Request("PUT", path, body))


def message(fleet: LocalCluster, name: str) -> str:
    (ready,) = [one for one in status(fleet, name)["conditions"] if one["type"] == "Ready"]
    text: str = ready["message"]
    return text


def shows(fleet: LocalCluster, name: str, driver: str | None) -> None:
    found = status(fleet, name)
    assert found.get("driverVersion") == driver
    assert found.get("product") == (PRODUCT if driver else None)
    assert found.get("source") == ({"resourceSlices": True} if driver else None)
    assert "gpus" not in found and "gpuCount" not in found
    assert condition(fleet, name) == ("False", "NoTargetPod")


@pytest.mark.usefixtures("operator")
def test_a_node_is_listed_by_its_slices_and_then_read(fleet: LocalCluster) -> None:
    name = "gpu-slices"
    xml = machine(name)
    fleet.add_node(name, xml=xml)
    set_label(fleet, name, "false")
    eventually(lambda: is_not_ready(fleet, name, "NoTargetPod"))
    fleet.client.send(
        Request(
            "PATCH",
            f"/api/v1/nodes/{name}/status",
            {"status": {"capacity": {"nvidia.com/gpu": None}}},
            content_type=MERGE,
        )
    )
    fleet.client.send(Request("DELETE", f"{INVENTORIES}/{name}"))
    publish(fleet, name, gpus(*uuids(xml), driver="580.65.6"))
    eventually(lambda: shows(fleet, name, "580.65.6"))
    assert history(fleet, name) == []
    row = CliRunner().invoke(
        cli,
        ["list", "-o", "json"],
        prog_name=PROGRAM,
        env={"KUBECONFIG": str(fleet.kubeconfig)},
    )
    (shown,) = [one for one in json.loads(row.stdout) if one["node"] == name]
    assert (shown["product"], shown["driverVersion"]) == (PRODUCT, "580.65.6")
    assert (shown["gpuCount"], shown["serials"], shown["ready"]) == (None, [], "False")
    table = fleet.kubectl("get", "gpuinventory", name).stdout
    assert PRODUCT in table and "580.65.6" in table
    set_label(fleet, name, "true")
    eventually(lambda: read_well(fleet, name))
    assert status(fleet, name)["gpuCount"] == 2
    assert types(history(fleet, name)) == ["GPUAdded", "GPUAdded"]
    assert message(fleet, name) == ""


@pytest.mark.usefixtures("operator")
def test_the_facts_follow_complete_pools_and_go_with_them(fleet: LocalCluster) -> None:
    name = "gpu-pools"
    bare_node(fleet, name)
    publish(fleet, name, gpus("GPU-a", driver="1.0.0"))
    eventually(lambda: shows(fleet, name, "1.0.0"))
    publish(fleet, name, gpus("GPU-a", driver="2.0.0"), generation=2, count=2)
    # A slice that is written later is seen later.
    publish(fleet, "gpu-other", gpus("GPU-o", driver="3.0.0"))
    bare_node(fleet, "gpu-other")
    eventually(lambda: shows(fleet, "gpu-other", "3.0.0"))
    shows(fleet, name, "1.0.0")
    publish(fleet, name, gpus("GPU-b", driver="2.0.0"), name="second", generation=2, count=2)
    eventually(lambda: shows(fleet, name, "2.0.0"))
    for path in (slice_path("second"), slice_path(f"{name}-{DRIVER}")):
        fleet.client.send(Request("DELETE", path))
    eventually(lambda: shows(fleet, name, None))


@pytest.mark.usefixtures("operator")
def test_a_slice_that_is_written_again_causes_no_write(fleet: LocalCluster) -> None:
    name = "gpu-churn"
    bare_node(fleet, name)
    publish(fleet, name, gpus("GPU-a", driver="1.0.0"))
    eventually(lambda: shows(fleet, name, "1.0.0"))

    def written() -> list[str]:
        found = writes(fleet, name=name)
        assert found[-1] == "patch gpuinventories/status"
        return found

    before = eventually(written)  # the audit log comes after the write
    for generation in range(2, 6):
        publish(fleet, name, gpus("GPU-a", driver="1.0.0"), generation=generation)
    publish(fleet, "gpu-churn-end", gpus("GPU-e", driver="1.0.0"))
    bare_node(fleet, "gpu-churn-end")
    eventually(lambda: shows(fleet, "gpu-churn-end", "1.0.0"))
    assert writes(fleet, name=name) == before


@pytest.mark.usefixtures("operator")
def test_ready_names_what_only_one_side_has(fleet: LocalCluster) -> None:
    name = "gpu-differs"
    xml = machine(name)
    fleet.add_node(name, xml=xml)
    eventually(lambda: read_well(fleet, name))
    first, second = uuids(xml)
    runs = len(fleet.exec_log(name))
    publish(fleet, name, gpus(first, driver="1.0.0"))

    def differs() -> None:
        assert message(fleet, name).endswith(f"publish {second}, which the inventory lists")
        assert len(fleet.exec_log(name)) == runs + 1

    eventually(differs)
    read_well(fleet, name)
    # Another GPU sits there, and only the slices show it.
    fleet.write_smi(name, swapped(xml, 1, "gpu-spare"))
    publish(fleet, name, gpus(*uuids(swapped(xml, 1, "gpu-spare")), driver="1.0.0"), generation=2)

    def is_swapped() -> None:
        assert types(history(fleet, name))[-2:] == ["GPURemoved", "GPUAdded"]
        assert message(fleet, name) == ""

    eventually(is_swapped)


def claim_reader(fleet: LocalCluster, name: str) -> None:
    """A pod with admin access to all GPUs of a node, which the scheduler allocates to it."""
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "all-gpus", "namespace": READERS},
        "spec": {
            "spec": {
                "devices": {
                    "requests": [
                        {
                            "name": "gpus",
                            "exactly": {
                                "deviceClassName": DRIVER,
                                "allocationMode": "All",
                                "adminAccess": True,
                            },
                        }
                    ]
                }
            }
        },
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"reader-{name}", "namespace": READERS, "labels": {"app": "reader"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": name},
            "tolerations": [{"operator": "Exists"}],
            "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "all-gpus"}],
            "containers": [
                {
                    "name": "reader",
                    "image": "reader",
                    "resources": {"claims": [{"name": "gpus"}]},
                }
            ],
        },
    }
    apply(fleet, template, pod)


@pytest.mark.usefixtures("operator")
def test_a_gpu_in_mig_mode_is_not_gone_for_a_reader_with_a_claim(fleet: LocalCluster) -> None:
    name = "gpu-claim"
    xml = machine(name)
    first, second = uuids(xml)
    publish(fleet, name, gpus(first, second, driver="1.0.0"))
    fleet.add_node(name, xml=xml)
    claim_reader(fleet, name)

    def is_read_through_the_claim() -> None:
        assert status(fleet, name)["source"]["namespace"] == READERS
        read_well(fleet, name)

    eventually(is_read_through_the_claim, within=60)
    claims = fleet.client.get(f"/apis/resource.k8s.io/v1/namespaces/{READERS}/resourceclaims")
    (claim,) = claims["items"]
    assert len(claim["status"]["allocation"]["devices"]["results"]) == 2
    # The second GPU goes into MIG mode.
    publish(fleet, name, [*gpus(first, driver="1.0.0"), mig(second, index=1)], generation=2)
    fleet.write_smi(name, without(xml, 1))
    read_again(fleet, name, "in MIG mode")
    assert message(fleet, name).endswith(f"they stay as last read: {second}")
    assert [gpu["uuid"] for gpu in status(fleet, name)["gpus"]] == [first, second]
    # It is taken out.
    publish(fleet, name, gpus(first, driver="1.0.0"), generation=3)

    def is_gone() -> None:
        assert types(history(fleet, name)) == ["GPUAdded", "GPUAdded", "GPURemoved"]
        assert message(fleet, name) == ""

    eventually(is_gone, within=60)


def test_without_the_right_the_operator_works_and_says_so_once(
    local_cluster: Callable[..., LocalCluster],
) -> None:
    cluster = local_cluster(nodes=0)
    rules = [rule for rule in FOOTPRINT if rule["resources"] != ["resourceslices"]]
    for namespace, granted in (("default", [EVENTS]), (TARGET_NAMESPACE, [PODS, EXEC])):
        apply(cluster, *role(namespace, *granted))
    apply(cluster, *role(None, *rules))
    kubeconfig: Path = service_account(cluster)
    said = "failed to list ResourceSlices; they have no effect"
    with Operator(cluster, kubeconfig=kubeconfig, periods={"resync": 1.0}) as operator:
        bare_node(cluster, "gpu-bare")
        publish(cluster, "gpu-bare", gpus("GPU-a", driver="1.0.0"))
        cluster.add_node("gpu-read", xml=machine("gpu-read"))
        eventually(lambda: read_well(cluster, "gpu-read"))
        # Resyncs go on without the right: one of them finds this node.
        bare_node(cluster, "gpu-capacity", capacity=8)
        eventually(lambda: is_not_ready(cluster, "gpu-capacity", "NoTargetPod"))
        path = f"{INVENTORIES}/gpu-bare"
        assert cluster.client.send(Request("GET", path, tolerate=(404,))) is None
        assert [line["msg"] for line in operator.lines()].count(said) == 1
        apply(cluster, *role(None, *FOOTPRINT))
        eventually(lambda: shows(cluster, "gpu-bare", "1.0.0"))
    cluster.down()
