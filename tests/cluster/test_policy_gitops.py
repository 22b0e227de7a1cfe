"""The operator never changes specs that users keep in git, whichever tool applied them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from gpuid_operator.localcluster import LocalCluster
from tests.support.check_scripts import policy_condition
from tests.support.operators import INVENTORIES, POLICIES, Operator, condition, eventually, status
from tests.support.smi_fixtures import machine

NODE = "gpu-gitops"
GROUP = "gpuid.github.com"
SPEC: dict[str, Any] = {
    "readInterval": "12h",
    "nodeSelector": {"matchLabels": {"kubernetes.io/os": "linux"}},
    "sinks": [
        {"name": "logs", "stdout": {}},
        {"name": "cmdb", "records": "sightings", "http": {"url": "https://localhost:1/x"}},
    ],
    "checks": [{"name": "c", "podSelector": {}, "command": "echo a\necho b\n", "interval": "1h"}],
}


def policy(name: str, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "labels": {"argocd.argoproj.io/instance": "fleet"}}
    return {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "GPUInventoryPolicy",
        "metadata": meta,
        "spec": SPEC | spec,
    }


def node_spec() -> dict[str, Any]:
    """A user's own spec for one node, in git as well."""
    return {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "GPUInventory",
        "metadata": {"name": NODE},
        "spec": {"sinks": [{"name": "mine", "stdout": {}}]},
    }


@pytest.fixture(scope="module")
def cluster(fleet: LocalCluster) -> Iterator[LocalCluster]:
    fleet.add_node(NODE, xml=machine(NODE))
    yield fleet


def apply(cluster: LocalCluster, *objects: dict[str, Any], server_side: bool) -> None:
    way = ["--server-side", "--field-manager=argocd-controller"] if server_side else []
    cluster.kubectl("apply", *way, "-f", "-", input=yaml.safe_dump_all(objects))


def difference(cluster: LocalCluster, *objects: dict[str, Any], server_side: bool) -> str:
    way = ["--server-side", "--field-manager=argocd-controller"] if server_side else []
    done = cluster.kubectl("diff", *way, "-f", "-", input=yaml.safe_dump_all(objects), check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def is_unchanged(cluster: LocalCluster, *objects: dict[str, Any], server_side: bool) -> None:
    """`kubectl diff` reads the object twice: a status that is written in between is a difference,
    too."""
    assert difference(cluster, *objects, server_side=server_side) == ""


def found(cluster: LocalCluster, path: str) -> dict[str, Any]:
    return dict(cluster.client.get(path))


def ours_outside_status(body: dict[str, Any]) -> set[str]:
    """Fields of an object that a manager of ours owns beside its status."""
    owned = set()
    for item in body["metadata"]["managedFields"]:
        if item["manager"].startswith("gpuid-operator"):
            fields = set(item["fieldsV1"]) - {"f:status"}
            owned |= {f"{field}/{name}" for field in fields for name in item["fieldsV1"][field]}
    return owned


@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_specs_from_git_stay_as_they_are(
    cluster: LocalCluster, server_side: bool, first: bool
) -> None:
    name = f"fleet-{'server' if server_side else 'client'}-{'before' if first else 'after'}"
    objects = policy(name), node_spec()
    manager = "argocd-controller" if server_side else "kubectl-client-side-apply"
    if first:
        apply(cluster, *objects, server_side=server_side)
    with Operator(cluster, POLICY_CHECKS="true"):
        if not first:
            eventually(lambda: read(cluster, ""))
            apply(cluster, *objects, server_side=server_side)
        eventually(lambda: read(cluster, name))
        eventually(lambda: takes_effect(cluster, name))
        eventually(lambda: is_unchanged(cluster, *objects, server_side=server_side))
        before = [found(cluster, f"{POLICIES}/{name}"), found(cluster, f"{INVENTORIES}/{NODE}")]
        for body, given in zip(before, objects, strict=True):
            assert body["spec"] == given["spec"]
            assert "finalizers" not in body["metadata"]
            annotations = set(body["metadata"].get("annotations", {}))
            last = set() if server_side else {"kubectl.kubernetes.io/last-applied-configuration"}
            assert annotations == last
        mine, theirs = before
        assert ours_outside_status(mine) == set()
        assert ours_outside_status(theirs) <= {"f:metadata/f:labels", "f:spec/."}
        # A change from git passes without a conflict, and is in force.
        changed = copy.deepcopy(objects[0])
        changed["spec"]["readInterval"] = "6h"
        del changed["spec"]["checks"]
        apply(cluster, changed, objects[1], server_side=server_side)
        eventually(lambda: takes_effect(cluster, name, generation=2))
        eventually(lambda: is_unchanged(cluster, changed, objects[1], server_side=server_side))
        body = found(cluster, f"{POLICIES}/{name}")
        assert body["spec"] == changed["spec"]
        owners = {
            item["manager"]
            for item in body["metadata"]["managedFields"]
            if "f:spec" in item["fieldsV1"]
        }
        assert owners == {manager}
    cluster.kubectl("delete", "gpuinv,gpupol", "--all")


def read(cluster: LocalCluster, policy_name: str) -> None:
    assert condition(cluster, NODE) == ("True", "ReadOK")
    assert status(cluster, NODE).get("policy", "") == policy_name


def takes_effect(cluster: LocalCluster, name: str, generation: int = 1) -> None:
    assert policy_condition(cluster, name, "Ready")[:2] == ("True", "InForce")
    found = cluster.client.get(f"{POLICIES}/{name}").get("status", {})
    assert found.get("observedGeneration") == generation
    assert found.get("matchedNodes") == 1


def test_nothing_of_the_operator_stays_on_what_it_watches(cluster: LocalCluster) -> None:
    """No finalizer, no annotation: of Kopf there is no trace on any object."""
    apply(cluster, policy("fleet"), server_side=False)
    with Operator(cluster, POLICY_CHECKS="true"):
        eventually(lambda: read(cluster, "fleet"))
        eventually(lambda: takes_effect(cluster, "fleet"))
    objects = cluster.client.get("/api/v1/namespaces/gpu-operator/pods")["items"]
    objects += cluster.client.get("/api/v1/nodes")["items"]
    objects += cluster.client.get(POLICIES)["items"]
    objects += cluster.client.get(INVENTORIES)["items"]
    assert len(objects) == 4
    for body in objects:
        meta = body["metadata"]
        assert "finalizers" not in meta
        text = json.dumps(meta.get("annotations", {}))
        assert "kopf" not in text and GROUP not in text.replace(f"{GROUP}/v1alpha1", "")
        owned = {
            item["manager"] for item in meta["managedFields"] if "kopf" in item["manager"].lower()
        }
        assert owned == set()
    cluster.kubectl("delete", "gpuinv,gpupol", "--all")
