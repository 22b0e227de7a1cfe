"""What the chart and the kustomizations contain, put before a real API server."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuid_operator.localcluster import LocalCluster, LocalClusterError
from release.manifests import install
from tests.support import kubeconform
from tests.support.chart_values import ANNOTATIONS
from tests.support.gotools import prometheus_operator_crds
from tests.support.manifests import (
    CHART,
    DEPLOYMENT,
    EXAMPLES,
    ROOT,
    Manifest,
    find,
    footprint,
    pod_specs,
    render,
    render_text,
    rights,
)
from tests.support.operators import eventually

OVERLAYS = ["base", *sorted(f"overlays/{p.name}" for p in (DEPLOYMENT / "overlays").iterdir())]
KUSTOMIZATIONS = [*OVERLAYS, "simulated"]
SCRAPED: Manifest = {
    "enabled": True,
    "namespace": "monitoring",
    "labels": {"release": "prometheus"},
}
VALUES: dict[str, Manifest] = {
    "everything": {
        "namespaceOverride": "elsewhere",
        "podDisruptionBudget": {"minAvailable": "50%"},
        "podMonitor": {**SCRAPED, "relabelings": [{"action": "labeldrop", "regex": "pod"}]},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
        "revisionHistoryLimit": 2,
        "schedulerName": "own-scheduler",
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["db.example.com"]}],
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["10.0.0.10"]},
        "extraInitContainers": [{"name": "wait", "image": "busybox:1"}],
        "extraContainers": [{"name": "proxy", "image": "proxy:1"}],
        "global": {"imageRegistry": "r.example.com", "imagePullSecrets": ["one"]},
        "reader": {"enabled": True},
        "checks": {"enabled": True, "restarts": True, "admission": {"enabled": True}},
        "networkPolicy": {"enabled": True, "ingressFrom": [{"namespaceSelector": {}}]},
        "imagePullSecrets": [{"name": "registry"}],
        "tolerations": [{"operator": "Exists"}],
        "exporter": {"type": "s3", "s3": {"bucket": "gpus", "credentialsSecret": "s3"}},
    },
    "network": {
        "networkPolicy": {"enabled": True, "egressPorts": [4318, 9093]},
        "exporter": {"type": "s3", "s3": {"bucket": "gpus"}},
    },
    "monitored": {
        "serviceMonitor": {
            **SCRAPED,
            "metricRelabelings": [{"action": "keep", "regex": "gpuid_.*"}],
        }
    },
    "runner": {"runner": {"command": "exit 1", "forceRestart": True}},
    **{path.stem: yaml.safe_load(path.read_text()) for path in EXAMPLES},
}


@pytest.fixture(scope="module")
def prometheus_operator(cluster: LocalCluster) -> Iterator[None]:
    """Its kinds, as it has them."""
    files = [f"--filename={path}" for path in prometheus_operator_crds()]
    cluster.kubectl("create", *files)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *files)

    def published() -> None:
        kinds = cluster.client.get("/openapi/v2")["definitions"]
        assert "com.coreos.monitoring.v1.PodMonitor" in kinds

    eventually(published)
    yield
    cluster.kubectl("delete", *files)


@pytest.fixture(scope="module")
def schemas(
    cluster: LocalCluster, prometheus_operator: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    kubeconform.write_schemas(cluster, folder)
    return folder


def kustomize(cluster: LocalCluster, folder: Path | str) -> str:
    return cluster.kubectl("kustomize", str(DEPLOYMENT / folder)).stdout


def objects_of(text: str) -> list[Manifest]:
    return [item for item in yaml.safe_load_all(text) if item]


def accept(cluster: LocalCluster, objects: list[Manifest]) -> None:
    """The server takes all of them in a dry run, without a warning of an unknown field."""
    done = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-f", "-"),
        input=yaml.safe_dump_all(objects),
    )
    assert done.stdout.count("(server dry run)") == len(objects)


@contextmanager
def namespaces(cluster: LocalCluster, objects: list[Manifest]) -> Iterator[None]:
    """The namespaces in which objects are and that the cluster lacks; a dry run creates none."""
    made = {item["metadata"]["name"]: item for item in objects if item["kind"] == "Namespace"}
    for name in {item["metadata"].get("namespace", "default") for item in objects}:
        if cluster.kubectl("get", "namespace", name, check=False).returncode:
            item = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            made.setdefault(name, item)
    if made:
        cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(made.values()))
        for name in made:
            # The dry run of a pod needs it.
            eventually(partial(_has_service_account, cluster, name))
    try:
        yield
    finally:
        if made:
            cluster.kubectl("delete", "namespace", *made)


@pytest.mark.parametrize("name", VALUES)
def test_the_server_accepts_the_chart(cluster: LocalCluster, name: str, schemas: Path) -> None:
    objects = render(values=VALUES[name])
    with namespaces(cluster, objects):
        accept(cluster, objects)
    summary = kubeconform.check(render_text(values=VALUES[name]), schemas)
    assert summary["valid"] == len(objects)


@pytest.mark.parametrize("folder", KUSTOMIZATIONS)
def test_the_server_accepts_the_kustomizations(
    cluster: LocalCluster, folder: str, schemas: Path
) -> None:
    text = kustomize(cluster, folder)
    accept(cluster, objects_of(text))
    assert kubeconform.check(text, schemas)["valid"] == len(objects_of(text))


def test_install_yaml_is_the_base_with_another_image(cluster: LocalCluster, schemas: Path) -> None:
    """The server accepts the file of a release, whose objects are those that kustomize makes."""
    image = f"registry.example.com/gpuid-operator@sha256:{'0' * 64}"
    text = install(ROOT, image)
    objects = objects_of(text)
    accept(cluster, objects)
    assert kubeconform.check(text, schemas)["valid"] == len(objects)
    base = objects_of(kustomize(cluster, "base"))
    find(base, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"] = image

    def named(objects: list[Manifest]) -> list[Manifest]:
        return sorted(objects, key=lambda item: (item["kind"], item["metadata"]["name"]))

    assert named(objects) == named(base)


def test_kubeconform_sees_an_unknown_field(schemas: Path) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}
    assert kubeconform.check(yaml.safe_dump(service), schemas)["valid"] == 1
    with pytest.raises(AssertionError, match="potrs"):
        kubeconform.check(yaml.safe_dump(service | {"spec": {"potrs": []}}), schemas)


def test_the_server_accepts_the_examples_of_the_chart_s_metadata(cluster: LocalCluster) -> None:
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    accept(cluster, yaml.safe_load(annotations["artifacthub.io/crdsExamples"]))


def test_the_server_accepts_the_policies_of_the_documentation(cluster: LocalCluster) -> None:
    accept(cluster, objects_of(kustomize(cluster, ROOT / "docs" / "gitops" / "policies")))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomizations_have_the_rights_of_the_footprint(
    cluster: LocalCluster, overlay: str
) -> None:
    assert rights(objects_of(kustomize(cluster, overlay))) == footprint("gpu-operator")


KINDS = ("gpuinventories", "gpuinventorypolicies", "gpuquarantines")


@pytest.fixture(params=["chart", "kustomize"])
def viewers(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[None]:
    """Users of the cluster's own roles: `view` and `admin` everywhere, `admin` in one namespace."""
    base = render() if request.param == "chart" else objects_of(kustomize(cluster, "base"))
    (role,) = (
        item
        for item in base
        if item["kind"] == "ClusterRole" and item["metadata"]["name"].endswith("-view")
    )
    cluster.kubectl("apply", "-f", "-", input=json.dumps(role))
    users = ("viewer", "clusterrolebinding", "view"), ("owner", "clusterrolebinding", "admin")
    for user, kind, granted in (*users, ("tenant", "rolebinding", "admin")):
        options = (f"--clusterrole={granted}", f"--user={user}")
        cluster.kubectl("create", kind, f"{user}-of-test", *options)
    yield
    cluster.kubectl("delete", "clusterrolebinding", "viewer-of-test", "owner-of-test")
    cluster.kubectl("delete", "rolebinding", "tenant-of-test")
    cluster.kubectl("delete", "clusterrole", role["metadata"]["name"])


@pytest.mark.usefixtures("viewers")
def test_readers_of_the_cluster_read_the_inventory_and_nobody_writes_it(
    cluster: LocalCluster,
) -> None:
    """Not even an `admin` of the whole cluster, and a tenant sees nothing of it."""

    def may(user: str) -> set[tuple[str, str]]:
        def can(verb: str, kind: str) -> bool:
            done = cluster.kubectl("auth", "can-i", verb, kind, "-A", "--as", user, check=False)
            return done.returncode == 0

        verbs = ("list", "create", "patch", "delete")
        return {(kind, verb) for kind in KINDS for verb in verbs if can(verb, kind)}

    reads = {(kind, "list") for kind in KINDS}

    def aggregated() -> None:
        assert may("viewer") == may("owner") == reads

    eventually(aggregated)
    assert may("tenant") == set()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_names_that_users_of_gpuid_know(cluster: LocalCluster, overlay: str) -> None:
    objects = objects_of(kustomize(cluster, overlay))
    deployment = find(objects, "Deployment")
    template = deployment["spec"]["template"]
    assert find(objects, "Namespace")["metadata"]["name"] == "gpuid"
    assert deployment["metadata"]["namespace"] == "gpuid"
    assert template["metadata"]["labels"]["app"] == "gpuid"
    (container,) = template["spec"]["containers"]
    assert container["name"] == "gpuid"
    # The Secrets that gpuid's overlays name, so that those of a cluster stay.
    secrets = {
        item["valueFrom"]["secretKeyRef"]["name"]
        for item in container["env"]
        if "secretKeyRef" in item.get("valueFrom", {})
    }
    sink = overlay.rpartition("/")[2]
    known = {"http": "http-credentials", "postgres": "db-credentials", "s3": "s3-credentials"}
    assert secrets == ({known[sink]} if sink in known else set())
    service = find(objects, "Service")
    assert service["metadata"]["annotations"] == ANNOTATIONS
    (port,) = service["spec"]["ports"]
    assert (port["name"], port["port"]) == ("metrics", 8080)
    if overlay != "overlays/gpu-kernel-param-monitor":
        assert deployment["metadata"]["name"] == "gpuid"


def test_the_monitor_can_live_beside_the_base(cluster: LocalCluster) -> None:
    """They share the namespace and the CRDs, and nothing else: not a name, a pod or a lease."""

    def named(objects: list[Manifest]) -> set[tuple[str, str | None, str]]:
        return {
            (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"])
            for item in objects
        }

    base = objects_of(kustomize(cluster, "base"))
    monitor = objects_of(kustomize(cluster, "overlays/gpu-kernel-param-monitor"))
    shared = {kind for kind, _, _ in named(base) & named(monitor)}
    assert shared == {"Namespace", "CustomResourceDefinition"}
    labels = find(monitor, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for item in base:
        selector = item.get("spec", {}).get("selector", {})
        if selector:
            assert not selector.get("matchLabels", selector).items() <= labels.items()
    ours = "app.kubernetes.io/instance"
    for item in monitor:
        if item["kind"] not in shared:
            assert item["metadata"]["labels"][ours] == "gpu-kernel-param-monitor"

    def lease(objects: list[Manifest]) -> str:
        (container,) = find(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
        return str(next(e["value"] for e in container["env"] if e["name"] == "LEASE_NAME"))

    assert lease(base) != lease(monitor)


def test_an_overlay_of_ones_own_changes_tolerations_and_pull_secrets(
    cluster: LocalCluster,
) -> None:
    """As docs/install.md has it."""
    folder = DEPLOYMENT / "overlays" / "prod"
    spec = find(objects_of(kustomize(cluster, folder)), "Deployment")["spec"]["template"]["spec"]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert [item["key"] for item in spec["tolerations"]] == ["dedicated"]
    names = [item["name"] for item in spec["containers"][0]["env"]]
    assert {"NAMESPACE", "CLUSTER_NAME"} <= set(names)


@pytest.fixture(scope="module")
def restricted(cluster: LocalCluster) -> Iterator[str]:
    """A namespace whose pods must be of the restricted level."""
    name = "restricted"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    runtime = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "nvidia"},
        "handler": "nvidia",
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(runtime))
    eventually(lambda: _has_service_account(cluster, name))
    yield name
    cluster.kubectl("delete", "namespace", name)
    cluster.kubectl("delete", "runtimeclass", "nvidia")


def _has_service_account(cluster: LocalCluster, namespace: str) -> None:
    found = cluster.kubectl("get", "serviceaccount", "-n", namespace, "default", check=False)
    assert found.returncode == 0


def admit(cluster: LocalCluster, namespace: str, spec: Manifest) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "namespace": namespace},
        "spec": {**spec, "serviceAccountName": "default"},
    }
    cluster.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(pod))


def reader_pod(mode: str) -> Manifest:
    values = {"reader": {"enabled": True, "mode": mode}}
    return pod_specs(render(values=values))["DaemonSet/gpuid-operator-reader"]


def test_the_restricted_level_admits_every_pod(cluster: LocalCluster, restricted: str) -> None:
    specs = list(pod_specs(render()).values())
    specs += [reader_pod(mode) for mode in ("runtimeClass", "nri", "dra")]
    for folder in KUSTOMIZATIONS:
        specs += pod_specs(objects_of(kustomize(cluster, folder))).values()
    assert len(specs) == 5 + len(KUSTOMIZATIONS)
    for spec in specs:
        admit(cluster, restricted, spec)


@pytest.mark.parametrize(
    ("mode", "said"), [("volumeMounts", "hostPath"), ("hostDriver", "privileged")]
)
def test_a_reader_with_volumes_of_the_host_needs_a_lower_level(
    cluster: LocalCluster, restricted: str, mode: str, said: str
) -> None:
    """As docs/install.md says."""
    with pytest.raises(LocalClusterError, match=said):
        admit(cluster, restricted, reader_pod(mode))


def test_claims_with_admin_access_need_the_label(cluster: LocalCluster) -> None:
    """The server refuses the chart's template in a namespace that lacks it."""
    values = {"reader": {"enabled": True, "mode": "dra"}}
    template = find(render(values=values), "ResourceClaimTemplate")
    template["metadata"]["namespace"] = "default"
    with pytest.raises(LocalClusterError, match=r"resource\.kubernetes\.io/admin-access: true"):
        accept(cluster, [template])


@pytest.fixture(scope="module", params=["chart", "kustomize"])
def authors(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[str]:
    """The admission policies in force; the name of a user whom they let write checks and taints."""
    user = "system:serviceaccount:argocd:argocd-application-controller"
    if request.param == "chart":
        named = {"enabled": True, "users": [user]}
        values = {
            "checks": {"enabled": True, "admission": named},
            "quarantine": {"taints": {"enabled": True}, "admission": named},
        }
        objects = render(values=values)
    else:
        files = [
            DEPLOYMENT / "policy" / f"{name}-authors.yaml" for name in ("checks", "quarantine")
        ]
        objects = [item for file in files for item in objects_of(file.read_text())]
    kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    manifests = yaml.safe_dump_all([item for item in objects if item["kind"] in kinds])
    rights = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "policy-writers"},
        "rules": [
            {"apiGroups": ["gpuid.github.com"], "resources": ["*"], "verbs": ["*"]},
        ],
    }
    cluster.kubectl("apply", "-f", "-", input=manifests)
    cluster.kubectl("apply", "-f", "-", input=json.dumps(rights))
    cluster.kubectl(
        *("create", "clusterrolebinding", "policy-writers", "--clusterrole=policy-writers"),
        *("--group=writers",),
    )
    # The server takes a moment until it looks at a new policy.
    eventually(lambda: _is_refused(cluster, "bob"))
    eventually(lambda: _taint_is_refused(cluster, "bob"))
    yield user
    cluster.kubectl("delete", "-f", "-", input=manifests)
    cluster.kubectl("delete", "clusterrole,clusterrolebinding", "policy-writers")
    cluster.kubectl("delete", "gpuinventorypolicies,gpuquarantines", "--all")


def write_policy(cluster: LocalCluster, user: str, **spec: Any) -> str:
    """Apply a policy as `user`; what was wrong, or nothing."""
    return write_as(cluster, user, "GPUInventoryPolicy", "fleet", spec)


def write_quarantine(cluster: LocalCluster, user: str, **spec: Any) -> str:
    """Apply a quarantine as `user`; what was wrong, or nothing."""
    parts = [{"serial": "1652823054567"}]
    return write_as(cluster, user, "GPUQuarantine", "rma-1", {"parts": parts, **spec})


def write_as(cluster: LocalCluster, user: str, kind: str, name: str, spec: dict[str, Any]) -> str:
    written = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
    done = cluster.kubectl(
        *("apply", "--as", user, "--as-group", "writers", "-f", "-"),
        input=json.dumps(written),
        check=False,
    )
    return done.stderr if done.returncode else ""


def _is_refused(cluster: LocalCluster, user: str) -> None:
    # Another command each time: checks that stay as they are may be written by anyone.
    check = {**CHECK, "command": f"echo {secrets.token_hex(8)}"}
    error = write_policy(cluster, user, checks=[check])
    assert f"{user} is not among those who may write it" in error


CHECK = {"name": "c", "podSelector": {}, "command": "true"}


def test_only_named_authors_write_checks(cluster: LocalCluster, authors: str) -> None:
    assert write_policy(cluster, "bob", priority=1) == ""
    _is_refused(cluster, "bob")
    assert write_policy(cluster, authors, priority=1, checks=[CHECK]) == ""
    # Others may change the rest, and take checks away, but not touch them.
    assert write_policy(cluster, "bob", priority=2, checks=[CHECK]) == ""
    assert "not among those" in write_policy(
        cluster, "bob", priority=2, checks=[{**CHECK, "command": "rm -rf /"}]
    )
    assert write_policy(cluster, "bob", priority=2) == ""


def _taint_is_refused(cluster: LocalCluster, user: str) -> None:
    error = write_quarantine(cluster, user, reason=secrets.token_hex(8), action="Taint")
    assert f"{user} is not among those who may write it" in error
    assert "write action Report instead" in error


def test_only_named_authors_write_quarantines_that_taint(
    cluster: LocalCluster, authors: str
) -> None:
    assert write_quarantine(cluster, "bob", reason="Xid 79") == ""
    _taint_is_refused(cluster, "bob")
    assert write_quarantine(cluster, authors, reason="Xid 79", action="Taint") == ""
    # Others may write it again as it is, and take the taint away.
    assert write_quarantine(cluster, "bob", reason="Xid 79", action="Taint") == ""
    assert "not among those" in write_quarantine(cluster, "bob", reason="Xid 48", action="Taint")
    assert write_quarantine(cluster, "bob", reason="Xid 79") == ""
