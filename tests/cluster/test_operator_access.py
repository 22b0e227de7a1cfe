"""What the operator needs of the cluster: its rights, its kinds, its targets; and how it waits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.support.operators import (
    STARTS_WITHIN,
    Operator,
    condition,
    eventually,
    node_labels,
    status,
)
from tests.support.smi_fixtures import facts, machine, swapped

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
KINDS = ("gpuinventories", "gpuinventorypolicies")
NODE = "gpu-access"
OURS = "gpuid.github.com"

FOOTPRINT: list[dict[str, Any]] = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "patch"]},
    {
        "apiGroups": [OURS],
        "resources": ["gpuinventories"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
    {"apiGroups": [OURS], "resources": ["gpuinventories/status"], "verbs": ["patch"]},
    {
        "apiGroups": [OURS],
        "resources": ["gpuinventorypolicies", "gpuquarantines"],
        "verbs": ["get", "list", "watch"],
    },
    {
        "apiGroups": [OURS],
        "resources": ["gpuinventorypolicies/status", "gpuquarantines/status"],
        "verbs": ["patch"],
    },
    {
        "apiGroups": ["resource.k8s.io"],
        "resources": ["resourceslices"],
        "verbs": ["get", "list", "watch"],
    },
    {
        "apiGroups": [""],
        "resources": ["namespaces"],
        "verbs": ["get"],
        "resourceNames": ["kube-system"],
    },
]
PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
EXEC = {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]}
EVENTS = {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]}
LEASES = {
    "apiGroups": ["coordination.k8s.io"],
    "resources": ["leases"],
    "verbs": ["get", "create", "update"],
}
SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}


def apply(cluster: LocalCluster, *objects: dict[str, Any]) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    cluster.kubectl("apply", "-f", "-", input=text)


def role(namespace: str | None, *rules: dict[str, Any]) -> list[dict[str, Any]]:
    """A role of the operator with its binding; without a namespace, one for the whole cluster."""
    kind, where = ("Role", {"namespace": namespace}) if namespace else ("ClusterRole", {})
    meta = {"name": "gpuid-operator", **where}
    subject = {"kind": "ServiceAccount", "name": "gpuid-operator", "namespace": "gpuid"}
    api = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": f"{api}/v1", "kind": kind, "metadata": meta, "rules": list(rules)},
        {
            "apiVersion": f"{api}/v1",
            "kind": f"{kind}Binding",
            "metadata": meta,
            "roleRef": {"apiGroup": api, "kind": kind, "name": "gpuid-operator"},
            "subjects": [subject],
        },
    ]


@pytest.fixture(scope="module")
def kubeconfig(fleet: LocalCluster) -> Path:
    return service_account(fleet)


def service_account(fleet: LocalCluster) -> Path:
    """The kubeconfig of a service account, which has the rights that `role` gives it."""
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "gpuid-operator", "namespace": "gpuid"},
    }
    apply(fleet, account)
    path = "/api/v1/namespaces/gpuid/serviceaccounts/gpuid-operator/token"
    granted = fleet.client.send(Request("POST", path, {"spec": {}}))
    config = json.loads(fleet.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": granted["status"]["token"]}
    file = fleet.directory / "service-account.kubeconfig"
    file.write_text(json.dumps(config))
    return file


@pytest.fixture(scope="module", autouse=True)
def node(fleet: LocalCluster) -> Iterator[None]:
    fleet.add_node(NODE, xml=machine(NODE))
    yield


def test_the_footprint_is_enough_and_what_lacks_is_said(
    fleet: LocalCluster, kubeconfig: Path
) -> None:
    variables: dict[str, Any] = {"LEADER_ELECTION": "true", "POD_NAMESPACE": "gpuid"}
    with Operator(fleet, kubeconfig=kubeconfig, ready=False, **variables) as operator:
        lease = "failed to acquire lease"
        eventually(lambda: says(operator, lease, "leases"), within=STARTS_WITHIN)
        apply(fleet, *role("gpuid", LEASES, SECRETS), *role("default", EVENTS))
        eventually(lambda: says(operator, "failed to read namespace kube-system", "namespaces"))
        apply(fleet, *role(None, *FOOTPRINT))
        eventually(lambda: says(operator, "failed to list the cluster", "pods is forbidden"))
        code, words = operator.get("/readyz")
        assert code == 503 and "pods" in words
        apply(fleet, *role("gpu-operator", PODS))
        operator.wait_ready()
        eventually(lambda: has_condition(fleet, "False", "Forbidden"))
        apply(fleet, *role("gpu-operator", PODS, EXEC))
        eventually(lambda: has_condition(fleet, "True", "ReadOK"))
        eventually(lambda: has_labels(fleet))
        fleet.write_smi(NODE, swapped(fleet.smi_file(NODE).read_text(), 0, "gpu-other"))
        fleet.restart_plugin(NODE)
        eventually(lambda: has_event(fleet, "GPURemoved"))
    assert not [line for line in operator.lines() if "failed to post Event" in line["msg"]]


def has_event(cluster: LocalCluster, reason: str) -> None:
    items = cluster.client.get("/api/v1/namespaces/default/events")["items"]
    assert reason in {item["reason"] for item in items}


def says(operator: Operator, *words: str) -> None:
    lines = [json.dumps(line) for line in operator.lines() if line["level"] != "INFO"]
    assert any(all(word in line for word in words) for line in lines), lines


def has_condition(cluster: LocalCluster, *expected: str) -> None:
    assert condition(cluster, NODE) == expected


def has_labels(cluster: LocalCluster) -> None:
    assert node_labels(cluster, NODE).keys() == {"gpu-0", "gpu-1"}


def test_the_first_target_with_a_running_pod_is_read(fleet: LocalCluster) -> None:
    xml = fleet.smi_file(NODE).read_text()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "smi",
            "namespace": "default",
            "labels": {"app": "smi"},
            "annotations": {"kubectl.kubernetes.io/default-container": "tools"},
        },
        "spec": {
            "nodeName": NODE,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {"name": "side", "image": "side"},
                {"name": "tools", "image": "tools"},
            ],
        },
    }
    targets = json.dumps(
        [
            {"namespace": "default", "selector": "app=smi", "container": "absent"},
            {
                "namespace": "gpu-operator",
                "selector": "app in (nvidia-device-plugin-daemonset)",
                "command": ["/bin/sh", "-c", "nvidia-smi -q -x"],
            },
        ]
    )

    def source(namespace: str, container: str) -> None:
        found = status(fleet, NODE)
        assert (found["source"]["namespace"], found["source"]["container"]) == (
            namespace,
            container,
        )
        assert found["gpus"] == facts(xml)

    # It waits so long for another pod of the target in use.
    with Operator(fleet, TARGETS=targets, periods={"pod_grace": 1.5}) as operator:
        eventually(lambda: source("gpu-operator", "nvidia-device-plugin"))
        apply(fleet, pod)
        eventually(lambda: source("default", "tools"))
        runs = len(fleet.exec_log(NODE))
        fleet.kubectl("delete", "pod", "-n", "default", "smi", "--grace-period=0", "--force")
        eventually(lambda: source("gpu-operator", "nvidia-device-plugin"))
        assert len(fleet.exec_log(NODE)) == runs + 1
        fleet.restart_plugin(NODE)

        def read_once_more() -> None:
            assert len(fleet.exec_log(NODE)) == runs + 2

        eventually(read_once_more)
        assert operator.process.poll() is None


def test_missing_kinds_are_waited_for_at_the_start_and_later(fleet: LocalCluster) -> None:
    manifests = {kind: fleet.client.get(f"{CRDS}/{kind}.{OURS}") for kind in KINDS}
    for manifest in manifests.values():
        manifest["metadata"] = {"name": manifest["metadata"]["name"]}
        manifest.pop("status")

    def remove() -> None:
        fleet.kubectl("delete", "crd", *(f"{kind}.{OURS}" for kind in KINDS))

    def install(kind: str) -> None:
        fleet.client.send(Request("POST", CRDS, manifests[kind]))

    def waits_for(*kinds: str) -> None:
        code, said = operator.get("/readyz")
        assert code == 503 and "waiting for the CRDs" in said
        assert [kind for kind in KINDS if kind in said] == list(kinds), said

    remove()
    with Operator(fleet, ready=False) as operator:
        eventually(lambda: waits_for(*KINDS), within=STARTS_WITHIN)
        install("gpuinventories")
        eventually(lambda: waits_for("gpuinventorypolicies"))
        install("gpuinventorypolicies")
        operator.wait_ready()
        eventually(lambda: has_condition(fleet, "True", "ReadOK"))
        remove()
        eventually(lambda: waits_for(*KINDS), within=STARTS_WITHIN)
        for kind in KINDS:
            install(kind)
        operator.wait_ready()
        eventually(lambda: has_condition(fleet, "True", "ReadOK"))
