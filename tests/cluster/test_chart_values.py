"""What the Helm chart renders for which values, and what it refuses."""

from __future__ import annotations

import json
import runpy
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuid_operator import __version__
from gpuid_operator.cli.crds import crd_files
from gpuid_operator.operator.settings import Settings
from gpuid_operator.plan.presets import NAMES, default_namespaces, expand
from tests.support.chart_values import EVERYTHING, SINKS, load
from tests.support.gotools import go_tool
from tests.support.manifests import (
    CHART,
    EXAMPLES,
    KUBERNETES,
    ROOT,
    Manifest,
    RenderError,
    environment,
    find,
    pod_specs,
    render,
    render_text,
    rights,
)


@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_both_helms_render_the_same(helm: str) -> None:
    objects = render(values=EVERYTHING, helm=helm)
    assert objects == render(values=EVERYTHING)
    assert len(objects) == len(
        {(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects}
    )


def test_defaults_are_the_operators_own() -> None:
    """But for what two replicas need, for restarts, which the chart does not allow, and for the
    targets, which are gpuid's without the chart."""
    settings, bare = load(render()), Settings.load({"POD_NAME": "from-elsewhere"})
    differing = {
        field for field in Settings.model_fields if getattr(settings, field) != getattr(bare, field)
    }
    replicas = {"leader_election", "lease_namespace", "pod_namespace"}
    assert differing == replicas | {"restarts_per_hour", "targets"}
    assert settings.targets == expand("auto")


@pytest.mark.parametrize("sink", SINKS, ids=lambda sink: str(sink["type"]))
def test_the_operator_takes_every_exporter(sink: Manifest) -> None:
    assert load(render(values={"exporter": sink})).exporter_type.value == sink["type"]


def test_every_setting_is_a_value() -> None:
    """Some variable of each field appears under some values."""
    renders: list[Manifest] = [{"exporter": sink} for sink in SINKS]
    runner = {"command": "true", "forceRestart": True}
    others: list[Manifest] = [{"clusterName": "prod"}, {"runner": runner}]
    seen = {name for values in [*renders, *others] for name in environment(render(values=values))}
    absent = {field.upper() for field in Settings.model_fields} - seen
    assert absent == {"AWS_ENDPOINT_URL"}  # AWS_ENDPOINT_URL_S3 says the same


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": 2}, "replicas"),
        ({"image": {"name": "x"}}, "name"),
        ({"replicaCount": "2"}, "replicaCount"),
        ({"workers": 0}, "workers"),
        ({"workers": 501}, "workers"),
        ({"timeout": "30"}, "timeout"),
        ({"log": {"level": "loud"}}, "level"),
        ({"image": {"digest": "sha256:12"}}, "digest"),
        ({"targets": [{"namespace": "a"}]}, "selector"),
        ({"targets": [{"namespace": "A", "selector": "a=b"}]}, "namespace"),
        ({"targets": [{"preset": "gpu"}]}, "gpu-operator"),
        ({"targets": [{"preset": "gke", "selector": "a=b"}]}, "selector"),
        ({"targets": [{"preset": "gke", "namespace": "A"}]}, "namespace"),
        ({"exporter": {"type": "kafka"}}, "type"),
        ({"exporter": {"type": "http"}}, "exporter.http.endpoint"),
        ({"exporter": {"http": {"endpoint": "https://u:p@host/"}}}, "endpoint"),
        ({"exporter": {"type": "postgres"}}, "exporter.postgres.host"),
        (
            {"exporter": {"type": "postgres", "postgres": {"host": "h", "database": "d"}}},
            "exporter.postgres.userSecretRef",
        ),
        ({"exporter": {"type": "s3"}}, "exporter.s3.bucket"),
        ({"leaderElection": {"enabled": False}}, "leaderElection.enabled"),
        ({"targets": []}, "nowhere to read from"),
        ({"checks": {"restarts": True}}, "checks.enabled"),
        ({"runner": {"forceRestart": True}}, "runner.command"),
        ({"runner": {"command": "true"}, "reader": {"enabled": True}}, "one target"),
        (
            {
                "runner": {"command": "true"},
                "targets": [{"namespace": "gpu-operator", "selector": "app=x"}],
            },
            "targets[0].container",
        ),
        ({"runner": {"command": "true"}, "targets": [{"preset": "gke"}]}, "without a preset"),
        ({"checks": {"admission": {"enabled": True, "groups": []}}}, "users or groups"),
        ({"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 0}}, "set one of them"),
        ({"podDisruptionBudget": {"minAvailable": "101%"}}, "minAvailable"),
        (
            {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}},
            "scrape every pod",
        ),
        ({"serviceMonitor": {"renderMode": "never"}}, "renderMode"),
        ({"global": {"imagePullSecrets": [""]}}, "imagePullSecrets"),
    ],
    ids=str,
)
def test_refusals_name_the_value(values: Manifest, said: str) -> None:
    with pytest.raises(RenderError) as refusal:
        render(values=values)
    assert said in str(refusal.value)


def test_parents_may_pass_global_and_enabled() -> None:
    assert render(values={"global": {"storageClass": "x"}, "enabled": True}) == render()


def test_a_parent_sets_registry_and_pull_secrets_for_every_pod() -> None:
    values = {
        "global": {"imageRegistry": "r.example.com/", "imagePullSecrets": ["one", {"name": "two"}]},
        "image": {"registry": "other.example.com"},
        "imagePullSecrets": [{"name": "three"}, {"name": "one"}],
        "reader": {"enabled": True},
    }
    specs = pod_specs(render(values=values))
    assert len(specs) == 3
    for spec in specs.values():
        assert [item["name"] for item in spec["imagePullSecrets"]] == ["one", "two", "three"]
        images = {container["image"] for container in spec["containers"]}
        assert images == {f"r.example.com/gpuid-operator:{__version__}"}


def test_the_operator_may_be_in_another_namespace_than_the_release() -> None:
    """Everything goes there, so that the release equals one that was installed there."""
    values = EVERYTHING | {
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
        "quarantine": {"admission": {"enabled": True}},
        "targets": [{"preset": "reader"}],
    }
    moved = render_text(values=values | {"namespaceOverride": "elsewhere"})
    assert moved == render_text(values=values, namespace="elsewhere")
    runner = {"runner": {"command": "true"}}
    assert places(render(values=runner | {"namespaceOverride": "elsewhere"})) == {"gpu-operator"}


def test_the_pod_takes_what_a_cluster_asks_for() -> None:
    container = {"name": "proxy", "image": "proxy:1"}
    fields: Manifest = {
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["db.example.com"]}],
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["10.0.0.10"], "options": [{"name": "ndots", "value": "1"}]},
        "schedulerName": "own-scheduler",
        "priorityClassName": "high",
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    }
    more: Manifest = {
        "revisionHistoryLimit": 0,
        "extraInitContainers": [container],
        "extraContainers": [container],
    }
    spec = find(render(values=fields | more), "Deployment")["spec"]
    pod = spec["template"]["spec"]
    assert spec["revisionHistoryLimit"] == 0
    assert {name: pod[name] for name in fields} == fields
    assert pod["initContainers"] == [container]
    assert [item["name"] for item in pod["containers"]] == ["gpuid", "proxy"]
    bare = find(render(), "Deployment")["spec"]["template"]["spec"]
    assert not bare.keys() & {*fields, "initContainers", "hostNetwork"}


def test_the_schema_has_every_preset() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["definitions"]["preset"]["properties"]["preset"]["enum"] == list(NAMES)


@pytest.mark.parametrize("preset", NAMES)
def test_presets_are_those_of_the_operator(preset: str) -> None:
    objects = render(values={"targets": [{"preset": preset}, {"preset": "gke", "namespace": "x"}]})
    assert load(objects).targets == (*expand(preset), *expand("gke", namespace="x"))
    # Helm cannot see a cluster here.
    assert places(objects) == {default_namespaces(preset)[0], "x"}


def test_the_preset_of_readers_looks_into_the_namespace_of_the_release() -> None:
    text = render_text(values={"targets": [{"preset": "reader"}]}, namespace="elsewhere")
    objects = [item for item in yaml.safe_load_all(text) if item]
    assert load(objects).targets == expand("reader", namespace="elsewhere")
    assert places(objects) == {"elsewhere"}


def places(objects: list[Manifest]) -> set[str]:
    """The namespaces in which the operator may run commands."""
    return {item[0] for item in rights(objects) if item[2] == "pods/exec"}


def test_a_check_runner_has_its_target_in_the_plain_variables() -> None:
    command = "echo $$ $(date)\nexit 1\n"
    settings = load(render(values={"runner": {"command": command, "checkName": "mine"}}))
    assert settings.command == command
    assert (settings.check_name, settings.force_restart) == ("mine", False)
    assert settings.namespace == "gpu-operator"
    assert settings.restarts_per_hour == 0


def test_crds_are_kept_and_can_be_left_out() -> None:
    crds = [item for item in render() if item["kind"] == "CustomResourceDefinition"]
    assert [item["spec"] for item in crds] == [
        yaml.safe_load(text)["spec"] for text in crd_files().values()
    ]
    for item in crds:
        assert item["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    without = render(values={"crds": {"install": False}})
    assert not [item for item in without if item["kind"] == "CustomResourceDefinition"]


def test_braces_in_a_crd_survive_helm() -> None:
    """A description may hold what Helm takes for a template."""
    template = runpy.run_path(str(ROOT / "scripts" / "chart.py"))["_template"]
    text = template("kind: X\nmetadata:\n  name: a\nspec: 'a {{ b }} c'\n")
    assert """'a {{ "{{" }} b {{ "}}" }} c'""" in text


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_render(example: Path) -> None:
    objects = render("--values", str(example))
    settings = load(objects)
    wanted = {target.namespace for target in settings.targets}
    if settings.targets == expand("auto"):
        wanted = {"gpu-operator"}  # Helm cannot see a cluster here
    assert places(objects) == wanted


def test_extra_objects_are_templates() -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-text'}"
    mapping = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "{{ .Release.Namespace }}-mapping"},
    }
    objects = render(values={"extraObjects": [text, mapping]})
    names = {item["metadata"]["name"] for item in objects if item["kind"] == "ConfigMap"}
    assert names == {"gpuid-operator-text", "gpuid-mapping"}


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, f"gpuid-operator:{__version__}"),
        ({"registry": "r.example.com/team/", "tag": "1"}, "r.example.com/team/gpuid-operator:1"),
        ({"digest": f"sha256:{'a' * 64}"}, f"gpuid-operator@sha256:{'a' * 64}"),
    ],
    ids=["default", "registry", "digest"],
)
def test_image(image: dict[str, Any], expected: str) -> None:
    for spec in pod_specs(render(values={"image": image, "reader": {"enabled": True}})).values():
        assert [container["image"] for container in spec["containers"]] == [expected]


def test_the_metadata_names_the_images_of_a_release() -> None:
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    named = [item["image"] for item in yaml.safe_load(metadata["artifacthub.io/images"])]
    specs = pod_specs(render(values={"reader": {"enabled": True}})).values()
    assert set(named) == {item["image"] for spec in specs for item in spec["containers"]}


@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_an_older_kubernetes_is_refused(helm: str) -> None:
    for version in ("1.29.0", "1.29.3-gke.100", "1.36.0+rke2r1"):
        assert render("--kube-version", version, helm=helm)
    for version in ("1.28.15", "1.28.9-eks-036c24b"):
        with pytest.raises(RenderError, match="kubeVersion"):
            render("--kube-version", version, helm=helm)


def test_examples_are_in_the_package(tmp_path: Path) -> None:
    """`helm pull --untar` brings them, so that `-f` works without this repository; and both Helms
    render each the same."""
    helm = str(go_tool("helm4"))
    package = [helm, "package", str(CHART), "--destination", str(tmp_path)]
    subprocess.run(package, check=True, capture_output=True)
    archive = tmp_path / f"gpuid-operator-{__version__}.tgz"
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    folder = tmp_path / "gpuid-operator" / "examples"
    assert {path.name for path in folder.iterdir()} == {path.name for path in EXAMPLES}
    for example in EXAMPLES:
        options = ["--namespace", "gpuid", "--values", str(folder / example.name)]
        command = [helm, "template", "gpuid-operator", str(archive), KUBERNETES, *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert list(yaml.safe_load_all(done.stdout)) == list(
            yaml.safe_load_all(render_text("--values", str(example)))
        )


def test_long_names_stay_within_bounds() -> None:
    values: Manifest = {**EVERYTHING, "fullnameOverride": "n" * 63}
    for item in render(values=values):
        if item["kind"] != "CustomResourceDefinition":
            assert len(item["metadata"]["name"]) <= 63
