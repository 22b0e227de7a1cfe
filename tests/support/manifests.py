"""The chart as Helm renders it, for tests of all kinds."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.gotools import go_tool

ROOT: Final = Path(__file__).parent.parent.parent
CHART: Final = ROOT / "charts" / "gpuid-operator"
DEPLOYMENT: Final = ROOT / "deployment"
EXAMPLES: Final = sorted((CHART / "examples").glob("*.yaml"))

KUBERNETES: Final = "--kube-version=1.36.3"
"""For `helm template`: a Helm 3 that Go installed, not its own Makefile, takes 1.20 otherwise."""

Manifest = dict[str, Any]


class RenderError(Exception):
    """Helm refused the values; the text is what it said."""


def render_text(
    *options: str, values: Manifest | None = None, helm: str = "helm3", namespace: str = "gpuid"
) -> str:
    """What `helm template` prints for a release named gpuid-operator; raises RenderError."""
    command = [str(go_tool(helm)), "template", "gpuid-operator", str(CHART)]
    command += ["--namespace", namespace, KUBERNETES, "--values", "-", *options]
    done = subprocess.run(
        command, input=yaml.safe_dump(values or {}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RenderError(done.stderr)
    return done.stdout


def render(*options: str, values: Manifest | None = None, helm: str = "helm3") -> list[Manifest]:
    """The objects of a release."""
    text = render_text(*options, values=values, helm=helm)
    return [item for item in yaml.safe_load_all(text) if item]


def find(objects: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The one object of this kind and name."""
    found = [
        item
        for item in objects
        if item["kind"] == kind and name in (None, item["metadata"]["name"])
    ]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}, name {name}"
    return found[0]


def pod_specs(objects: list[Manifest]) -> dict[str, Manifest]:
    """The specs of all pods, bare or in a template, by kind and name of the object."""
    return {
        f"{item['kind']}/{item['metadata']['name']}": (
            item["spec"] if item["kind"] == "Pod" else item["spec"]["template"]["spec"]
        )
        for item in objects
        if item["kind"] in ("Pod", "Deployment", "DaemonSet")
    }


def environment(objects: list[Manifest]) -> dict[str, Any]:
    """The operator's environment: a text as the process sees it, or where the value comes from."""
    (container,) = find(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {
        # Kubernetes takes $$ for $.
        item["name"]: item["value"].replace("$$", "$") if "value" in item else item["valueFrom"]
        for item in container["env"]
    }


def rights(objects: list[Manifest]) -> set[tuple[str, str, str, str, str]]:
    """Every grant: namespace (`*` for the cluster), group, resource, verb, name of the object.

    Only roles that are bound to the operator's service account count.
    """
    granted = set()
    for binding in objects:
        if binding["kind"] not in ("ClusterRoleBinding", "RoleBinding"):
            continue
        where = binding["metadata"].get("namespace", "*")
        role = next(
            item
            for item in objects
            if item["kind"] == binding["roleRef"]["kind"]
            and item["metadata"]["name"] == binding["roleRef"]["name"]
            and item["metadata"].get("namespace", "*") == where
        )
        for rule in role["rules"]:
            assert not rule.keys() - {"apiGroups", "resources", "verbs", "resourceNames"}
            granted |= {
                (where, group, resource, verb, name)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
                for name in rule.get("resourceNames", ["*"])
            }
    return granted


def footprint(
    *targets: str, own: str = "gpuid", restarts: str | None = None
) -> set[tuple[str, str, str, str, str]]:
    """DESIGN 6: all that the operator may do."""

    def grants(where: str, group: str, resource: str, verbs: str, name: str = "*") -> None:
        allowed.update((where, group, resource, verb, name) for verb in verbs.split())

    allowed: set[tuple[str, str, str, str, str]] = set()
    ours = "gpuid.github.com"
    for namespace in targets:
        grants(namespace, "", "pods", "get list watch")
        grants(namespace, "", "pods/exec", "get create")
    if restarts:
        grants(restarts, "", "pods", "delete")
    grants("*", "", "nodes", "get list patch")
    grants("*", ours, "gpuinventories", "get list watch create patch delete")
    grants("*", ours, "gpuinventories/status", "patch")
    grants("*", ours, "gpuinventorypolicies", "get list watch")
    grants("*", ours, "gpuinventorypolicies/status", "patch")
    grants("*", ours, "gpuquarantines", "get list watch")
    grants("*", ours, "gpuquarantines/status", "patch")
    grants("*", "resource.k8s.io", "resourceslices", "get list watch")
    grants("*", "", "namespaces", "get", "kube-system")
    grants("default", "", "events", "create patch")
    grants(own, "coordination.k8s.io", "leases", "get create update")
    grants(own, "", "secrets", "get")
    return allowed
