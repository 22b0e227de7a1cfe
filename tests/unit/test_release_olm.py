"""The bundle for OLM: everything in install.yaml has its place in it, with the same rights."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from release import manifests, olm
from release.errors import ReleaseError
from release.project import ROOT, Project
from tests.support.manifests import footprint

IMAGE = "registry.example.com/team/gpuid-operator@sha256:" + "0" * 64
PROJECT = Project(
    folder=ROOT,
    commit="0" * 40,
    epoch=0,
    version="0.1.0",
    name="gpuid-operator",
    description="which GPU",
    authors="its authors",
    license="Apache-2.0",
    source="https://example.com/gpuid-operator",
)

Grant = tuple[str, str, str, str]


@pytest.fixture(scope="module")
def bundle() -> dict[str, Any]:
    return olm.bundle(PROJECT, manifests.install(ROOT, IMAGE), IMAGE)


@pytest.fixture
def strategy(bundle: dict[str, Any]) -> dict[str, Any]:
    version = bundle["manifests/gpuid-operator.clusterserviceversion.yaml"]
    found: dict[str, Any] = version["spec"]["install"]["spec"]
    return found


def grants(permissions: list[dict[str, Any]]) -> set[Grant]:
    (of_account,) = permissions
    assert of_account["serviceAccountName"] == "gpuid"
    return {
        (group, resource, verb, name)
        for rule in of_account["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", ["*"])
    }


def test_the_rights_are_those_of_the_base(strategy: dict[str, Any]) -> None:
    """OLM grants the second kind in the namespaces of operator and target. Only rights on Events
    are wider than elsewhere: OLM knows no right in the namespace default alone."""
    wanted = footprint("target")
    in_cluster = {grant[1:] for grant in wanted if grant[0] in ("*", "default")}
    assert grants(strategy["clusterPermissions"]) == in_cluster
    in_namespaces = {grant[1:] for grant in wanted if grant[0] not in ("*", "default")}
    assert grants(strategy["permissions"]) == in_namespaces


def test_the_target_is_the_namespace_of_the_operator_group(strategy: dict[str, Any]) -> None:
    (deployment,) = strategy["deployments"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (entry,) = (entry for entry in container["env"] if entry["name"] == "NAMESPACE")
    path = entry["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['olm.targetNamespaces']"
    assert container["image"] == IMAGE


def test_every_kind_is_owned_and_has_an_example(bundle: dict[str, Any]) -> None:
    version = bundle["manifests/gpuid-operator.clusterserviceversion.yaml"]
    crds = {item["metadata"]["name"]: item for item in bundle.values() if is_crd(item)}
    owned = version["spec"]["customresourcedefinitions"]["owned"]
    assert [one["name"] for one in owned] == sorted(crds)
    kinds = {item["spec"]["names"]["kind"] for item in crds.values()}
    examples = yaml.safe_load(version["metadata"]["annotations"]["alm-examples"])
    assert {item["kind"] for item in examples} == kinds


def is_crd(item: dict[str, Any]) -> bool:
    return item.get("kind") == "CustomResourceDefinition"


def test_objects_of_the_bundle_have_no_namespace(bundle: dict[str, Any]) -> None:
    """OLM puts them into the namespace of the operator."""
    others = {name: item for name, item in bundle.items() if "service" in name or "role" in name}
    del others["manifests/gpuid-operator.clusterserviceversion.yaml"]
    assert {item["kind"] for item in others.values()} == {"Service", "ClusterRole"}
    assert not [name for name, item in others.items() if "namespace" in item["metadata"]]


def test_an_object_that_has_no_place_is_refused() -> None:
    text = manifests.install(ROOT, IMAGE)
    more = "---\nkind: ConfigMap\nmetadata: {name: more, namespace: gpuid}\n"
    with pytest.raises(ReleaseError, match="ConfigMap more has no place"):
        olm.bundle(PROJECT, text + more, IMAGE)
