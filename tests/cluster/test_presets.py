"""Presets on a real API server: the pods of every installation, what falls to the next, and
namespaces without rights. tests/node/test_presets.py has the file systems of real containers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.plan.presets import expand
from tests.cluster.test_operator_access import (
    EVENTS,
    EXEC,
    FOOTPRINT,
    PODS,
    apply,
    role,
    service_account,
)
from tests.support.objects_in_cluster import delete_pod, make_namespace, make_node, make_pod
from tests.support.operators import (
    Operator,
    eventually,
    history,
    inventory,
    read_again,
    read_well,
    status,
    types,
)
from tests.support.preset_pods import INSTALLED, TRAPS, InstalledPod
from tests.support.smi_fixtures import facts, machine, serials

PERIODS = {"pod_grace": 2.0, "resync": 2.0}
AUTO = "[{preset: auto}]"
ELSEWHERE = {"gke", "dra-driver"}
"""Presets whose command is not there on a simulated node, which has nvidia-smi in PATH."""
BY_NAME = {pod.name: pod for pod in INSTALLED}


@pytest.fixture(scope="module", autouse=True)
def namespaces(fleet: LocalCluster) -> None:
    for target in expand("auto"):
        make_namespace(fleet, target.namespace)


def install(fleet: LocalCluster, node: str, *pods: InstalledPod) -> None:
    for pod in pods:
        make_pod(
            fleet,
            f"{pod.name.replace('.', '-')}-{node}",
            node=node,
            namespace=pod.namespace,
            labels=pod.labels,
            containers=pod.containers,
        )


def ready(fleet: LocalCluster, node: str) -> dict[str, Any]:
    found = status(fleet, node)["conditions"]
    return dict(next(one for one in found if one["type"] == "Ready"))


def is_read_in(fleet: LocalCluster, node: str, pod: InstalledPod) -> None:
    read_well(fleet, node)
    source = status(fleet, node)["source"]
    assert (source["namespace"], source["container"]) == (pod.namespace, pod.containers[0])


@pytest.fixture(scope="class")
def operator(fleet: LocalCluster) -> Iterator[Operator]:
    with Operator(fleet, periods=PERIODS, TARGETS=AUTO) as operator:
        yield operator


class TestInstallations:
    """One operator reads the pods of all installations."""

    @pytest.mark.parametrize("pod", INSTALLED, ids=lambda pod: pod.name)
    def test_the_pod_of_an_installation_is_used(
        self, fleet: LocalCluster, operator: Operator, pod: InstalledPod
    ) -> None:
        node = f"gpu-preset-{pod.name.replace('.', '-')}"
        xml = machine(node)
        make_node(fleet, node, xml)
        install(fleet, node, pod)
        if pod.preset in ELSEWHERE:

            def is_tried() -> None:
                said = ready(fleet, node)
                assert said["reason"] == "NvidiaSmiNotFound"
                assert (
                    f"{pod.namespace}/" in said["message"] and pod.containers[0] in said["message"]
                )

            eventually(is_tried)
        else:
            eventually(lambda: is_read_in(fleet, node, pod))
            assert status(fleet, node)["gpus"] == facts(xml)

    def test_pods_that_validate_are_not_used(self, fleet: LocalCluster, operator: Operator) -> None:
        node = "gpu-traps"
        make_node(fleet, node, machine(node))
        install(fleet, node, *TRAPS)

        def is_reported() -> None:
            said = ready(fleet, node)
            assert said["reason"] == "NoTargetPod"
            assert (
                "preset gpu-operator in gpu-operator; preset static-manifest in" in said["message"]
            )

        eventually(is_reported)
        assert fleet.exec_log(node) == []
        # The node is read once there is a pod for that.
        install(fleet, node, BY_NAME["dcgm"])
        eventually(lambda: is_read_in(fleet, node, BY_NAME["dcgm"]))


def test_what_has_no_nvidia_smi_falls_to_the_next_and_is_not_tried_again(
    fleet: LocalCluster,
) -> None:
    node, dcgm, driver = "gpu-fallen", BY_NAME["dcgm"], BY_NAME["driver"]
    make_node(fleet, node, machine(node))
    install(fleet, node, BY_NAME["gke"], BY_NAME["dra"], dcgm)
    with Operator(fleet, periods=PERIODS, TARGETS=AUTO) as operator:
        eventually(lambda: is_read_in(fleet, node, dcgm))
        tried = [line for line in operator.lines() if "trying the next target" in line["msg"]]
        assert [line["container"] for line in tried if line["node"] == node] == [
            "nvidia-gpu-device-plugin",
            "gpus",
            "compute-domains",
        ]
        read_again(fleet, node, "again")
        assert len(fleet.exec_log(node)) == 2
        known = inventory(fleet, node)
        operator.terminate()
        operator.restart()
        assert inventory(fleet, node)["metadata"] == known["metadata"]
        # A better target takes over, and the node has the same GPUs as before.
        install(fleet, node, driver)
        eventually(lambda: is_read_in(fleet, node, driver))
        assert len(fleet.exec_log(node)) == 3
        # It goes for good, and the next one is used.
        delete_pod(fleet, f"driver-{node}", namespace=driver.namespace)
        eventually(lambda: is_read_in(fleet, node, dcgm))
        assert types(history(fleet, node)) == ["GPUAdded", "GPUAdded"]
        assert {one["gpu"] for one in operator.records() if one["node"] == node} == set(
            serials(machine(node))
        )


@pytest.fixture(scope="module")
def kubeconfig(fleet: LocalCluster) -> Path:
    """A service account with rights on the pods of gpu-operator alone."""
    for namespace, rules in {
        None: FOOTPRINT,
        "default": [EVENTS],
        "gpu-operator": [PODS, EXEC],
    }.items():
        apply(fleet, *role(namespace, *rules))
    return service_account(fleet)


def test_namespaces_without_rights_do_not_stop_the_others(
    fleet: LocalCluster, kubeconfig: Path
) -> None:
    node, other = "gpu-with-rights", "gpu-without-rights"
    for name in (node, other):
        make_node(fleet, name, machine(name))
    install(fleet, node, BY_NAME["plugin"])
    install(fleet, other, BY_NAME["manifest"])
    with Operator(fleet, kubeconfig=kubeconfig, periods=PERIODS, TARGETS=AUTO) as operator:
        eventually(lambda: is_read_in(fleet, node, BY_NAME["plugin"]))

        def is_explained() -> None:
            said = ready(fleet, other)
            assert said["reason"] == "NoTargetPod"
            assert "the operator may not list pods in dcgm-exporter" in said["message"]

        eventually(is_explained)
        (line,) = [line for line in operator.lines() if "not permitted to list" in line["msg"]]
        wanted = {target.namespace for target in expand("auto")} - {"gpu-operator"}
        assert line["namespaces"] == sorted(wanted)
        apply(fleet, *role("kube-system", PODS, EXEC))
        eventually(lambda: is_read_in(fleet, other, BY_NAME["manifest"]))
        # Its pods are watched, too.
        third = "gpu-with-rights-later"
        make_node(fleet, third, machine(third))
        install(fleet, third, BY_NAME["manifest"])
        eventually(lambda: is_read_in(fleet, third, BY_NAME["manifest"]))
        # A right that is taken away ends no other watch.
        fleet.kubectl("delete", "rolebinding", "-n", "kube-system", "gpuid-operator")
        fourth = "gpu-with-rights-still"
        make_node(fleet, fourth, machine(fourth))
        install(fleet, fourth, BY_NAME["plugin"])
        eventually(lambda: is_read_in(fleet, fourth, BY_NAME["plugin"]))


def test_without_rights_anywhere_the_condition_says_what_to_do(
    fleet: LocalCluster, kubeconfig: Path
) -> None:
    fleet.kubectl("delete", "rolebinding", "-n", "gpu-operator", "gpuid-operator")
    node = "gpu-auto-mode"
    labels = {"eks.amazonaws.com/compute-type": "auto"}
    make_node(fleet, node, machine(node), labels=labels)
    with Operator(fleet, kubeconfig=kubeconfig, periods=PERIODS, TARGETS=AUTO):

        def is_explained() -> None:
            said = ready(fleet, node)
            assert said["reason"] == "NoTargetPod"
            assert "EKS Auto Mode runs the device plugin on the host" in said["message"]

        eventually(is_explained)
        # Policies are watched without any pods.
        policy = {
            "apiVersion": "gpuid.github.com/v1alpha1",
            "kind": "GPUInventoryPolicy",
            "metadata": {"name": "all"},
            "spec": {"sinks": []},
        }
        fleet.kubectl("apply", "-f", "-", input=json.dumps(policy))
        try:

            def is_in_force() -> None:
                assert status(fleet, node)["policy"] == "all"

            eventually(is_in_force)
        finally:
            fleet.kubectl("delete", "gpuinventorypolicy", "all")
