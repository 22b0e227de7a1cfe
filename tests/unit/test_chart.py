"""The Helm chart: what it renders for which values, and what it refuses."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuid_operator import __version__
from gpuid_operator.cli.crds import crd_files
from gpuid_operator.operator.settings import Settings
from tests.support.manifests import (
    CHART,
    EXAMPLES,
    ROOT,
    Manifest,
    RenderError,
    environment,
    find,
    footprint,
    pod_specs,
    render,
    rights,
)

EVERYTHING: Manifest = {
    "clusterName": "prod",
    "reader": {"enabled": True},
    "checks": {
        "enabled": True,
        "restarts": True,
        "admission": {"enabled": True, "users": ["alice"]},
    },
    "serviceMonitor": {"enabled": True},
    "networkPolicy": {"enabled": True},
    "imagePullSecrets": [{"name": "registry"}],
    "tolerations": [{"operator": "Exists"}],
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/extra"}],
}

SINKS: list[Manifest] = [
    {"type": "stdout"},
    {
        "type": "http",
        "http": {
            "endpoint": "https://example.com/records",
            "tokenSecretRef": {"name": "token", "key": "token"},
        },
    },
    {
        "type": "postgres",
        "postgres": {
            "host": "db.example.com",
            "database": "gpuid",
            "userSecretRef": {"name": "db", "key": "username"},
            "passwordSecretRef": {"name": "db", "key": "password"},
        },
    },
    {"type": "s3", "s3": {"bucket": "gpus", "prefix": "p", "credentialsSecret": "s3"}},
    {"type": "s3", "s3": {"bucket": "gpus", "endpoint": "https://s3.example.com"}},
]


def load(objects: list[Manifest]) -> Settings:
    """The settings that the operator reads from a rendered environment."""
    values = {
        name: value if isinstance(value, str) else "from-elsewhere"
        for name, value in environment(objects).items()
    }
    return Settings.load(values)


def test_version_is_that_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_generated_files_are_fresh() -> None:
    """`make chart` writes them."""
    generated: dict[Path, str] = runpy.run_path(str(ROOT / "scripts" / "chart.py"))["generated"]()
    stale = [str(path) for path, text in generated.items() if path.read_text() != text]
    assert stale == []


def test_every_value_is_described_and_in_the_schema() -> None:
    """And the other way round: the schema names nothing that values.yaml does not have."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    readme = (CHART / "README.md").read_text()

    def walk(properties: Manifest, defaults: Manifest, path: str) -> None:
        assert properties.keys() - {"enabled"} == defaults.keys() - {"enabled"}, path
        for key, rule in properties.items():
            if "properties" in rule and defaults[key]:
                walk(rule["properties"], defaults[key], f"{path}{key}.")
            elif key in defaults and "$ref" not in rule:
                assert f"| `{path}{key}` |" in readme

    walk(schema["properties"], values, "")


@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_both_helms_render_the_same(helm: str) -> None:
    objects = render(values=EVERYTHING, helm=helm)
    assert objects == render(values=EVERYTHING)
    assert len(objects) == len(
        {(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects}
    )


def test_defaults_are_the_operators_own() -> None:
    """But for what two replicas need, and for restarts, which the chart does not allow."""
    settings, bare = load(render()), Settings.load({"POD_NAME": "from-elsewhere"})
    differing = {
        field for field in Settings.model_fields if getattr(settings, field) != getattr(bare, field)
    }
    replicas = {"leader_election", "lease_namespace", "pod_namespace"}
    assert differing == replicas | {"restarts_per_hour"}


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
        ({"checks": {"admission": {"enabled": True, "groups": []}}}, "users or groups"),
    ],
    ids=str,
)
def test_refusals_name_the_value(values: Manifest, said: str) -> None:
    with pytest.raises(RenderError) as refusal:
        render(values=values)
    assert said in str(refusal.value)


def test_parents_may_pass_global_and_enabled() -> None:
    assert render(values={"global": {"imageRegistry": "x"}, "enabled": True}) == render()


def test_rights_are_the_footprint() -> None:
    assert rights(render()) == footprint("gpu-operator")


def test_rights_follow_the_targets() -> None:
    targets = [
        {"namespace": "kube-system", "selector": "k8s-app=nvidia-gpu-device-plugin"},
        {"namespace": "kube-system", "selector": "name=nvidia-device-plugin-ds"},
        {"namespace": "other", "selector": "a=b"},
    ]
    objects = render(values={"targets": targets, "reader": {"enabled": True}})
    assert rights(objects) == footprint("gpuid", "kube-system", "other")


def test_only_restarts_may_delete_pods_and_only_in_the_first_target() -> None:
    targets = [
        {"namespace": "first", "selector": "a=b", "container": "c"},
        {"namespace": "second", "selector": "a=b", "container": "c"},
    ]
    checks: Manifest = {"enabled": True}
    assert rights(render(values={"targets": targets, "checks": checks})) == footprint(
        "first", "second"
    )
    checks = {"enabled": True, "restarts": True}
    objects = render(values={"targets": targets, "checks": checks})
    assert rights(objects) == footprint("first", "second", restarts="first")
    assert environment(objects)["RESTARTS_PER_HOUR"] == "20"
    runner = {"command": "true", "forceRestart": True}
    objects = render(values={"targets": targets[:1], "runner": runner})
    assert rights(objects) == footprint("first", restarts="first")


def test_the_lease_is_where_it_was_asked_for() -> None:
    values = {"leaderElection": {"namespace": "leases"}}
    moved = {item for item in rights(render(values=values)) if item[2] == "leases"}
    assert {item[0] for item in moved} == {"leases"}
    alone = render(values={"leaderElection": {"enabled": False}, "replicaCount": 1})
    assert not {item for item in rights(alone) if item[2] == "leases"}


def test_no_role_is_granted_to_anyone_else() -> None:
    """Nor aggregated: whoever may write checks may run commands on GPU nodes."""
    for item in render(values=EVERYTHING):
        if item["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            assert item["subjects"] == [
                {"kind": "ServiceAccount", "name": "gpuid-operator", "namespace": "gpuid"}
            ]
        assert "aggregationRule" not in item
        assert not any("aggregate-to" in label for label in item["metadata"]["labels"])


def test_without_rbac_and_service_account() -> None:
    objects = render(
        values={"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "mine"}}
    )
    kinds = {item["kind"] for item in objects}
    assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}
    assert "ServiceAccount" not in kinds
    assert pod_specs(objects)["Deployment/gpuid-operator"]["serviceAccountName"] == "mine"


def test_pods_are_of_the_restricted_level() -> None:
    specs = pod_specs(render(values=EVERYTHING))
    assert set(specs) == {
        "Deployment/gpuid-operator",
        "DaemonSet/gpuid-operator-reader",
        "Pod/gpuid-operator-test",
    }
    for spec in specs.values():
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert "hostNetwork" not in spec
        assert all("hostPath" not in volume for volume in spec.get("volumes", []))
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


def test_only_the_operator_gets_a_token() -> None:
    tokens = {
        name: spec["automountServiceAccountToken"]
        for name, spec in pod_specs(render(values=EVERYTHING)).items()
    }
    assert [name for name, mounted in tokens.items() if mounted] == ["Deployment/gpuid-operator"]


@pytest.mark.parametrize(("replicas", "budgets"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_a_disruption_budget_needs_more_than_one_replica(replicas: int, budgets: int) -> None:
    """With one pod it would hold up every drain."""
    kinds = [item["kind"] for item in render(values={"replicaCount": replicas})]
    assert kinds.count("PodDisruptionBudget") == budgets


def test_selectors_choose_the_operators_pods_only() -> None:
    objects = render(values=EVERYTHING)
    template = find(objects, "Deployment")["spec"]["template"]
    reader = find(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    spread = template["spec"]["topologySpreadConstraints"]
    selectors = [
        find(objects, "Deployment")["spec"]["selector"]["matchLabels"],
        find(objects, "Service")["spec"]["selector"],
        find(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        find(objects, "NetworkPolicy", "gpuid-operator")["spec"]["podSelector"]["matchLabels"],
        *(item["labelSelector"]["matchLabels"] for item in spread),
    ]
    assert len(selectors) == 6
    for selector in selectors:
        assert selector.items() <= template["metadata"]["labels"].items()
        assert not selector.items() <= reader.items()


def test_the_reader_comes_first_and_takes_no_gpu() -> None:
    objects = render(values={"reader": {"enabled": True}})
    reader = find(objects, "DaemonSet")["spec"]["template"]
    first, second = load(objects).targets
    assert (first.namespace, first.container) == ("gpuid", "reader")
    wanted = dict(part.split("=") for part in first.selector.split(","))
    assert wanted.items() <= reader["metadata"]["labels"].items()
    assert second.namespace == "gpu-operator"
    (container,) = reader["spec"]["containers"]
    assert "nvidia.com/gpu" not in json.dumps(container["resources"])
    assert reader["spec"]["runtimeClassName"] == "nvidia"
    assert {item["name"]: item["value"] for item in container["env"]} == {
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "utility",
    }


def test_the_reader_by_volume_mounts() -> None:
    """As the NVIDIA container runtime has them: the device's name as a path, /dev/null behind."""
    objects = render(values={"reader": {"enabled": True, "deviceList": "volume-mounts"}})
    spec = pod_specs(objects)["DaemonSet/gpuid-operator-reader"]
    (volume,) = spec["volumes"]
    (mount,) = spec["containers"][0]["volumeMounts"]
    assert volume == {"name": mount["name"], "hostPath": {"path": "/dev/null"}}
    assert mount["mountPath"] == "/var/run/nvidia-container-devices/all"


def test_a_check_runner_has_its_target_in_the_plain_variables() -> None:
    command = "echo $$ $(date)\nexit 1\n"
    settings = load(render(values={"runner": {"command": command, "checkName": "mine"}}))
    assert settings.command == command
    assert (settings.check_name, settings.force_restart) == ("mine", False)
    assert settings.namespace == "gpu-operator"
    assert settings.restarts_per_hour == 0


def test_network_policy_lets_the_api_server_and_dns_through() -> None:
    values = {
        "networkPolicy": {"enabled": True, "ingressFrom": [{"namespaceSelector": {}}]},
        "exporter": SINKS[2],
        "reader": {"enabled": True},
    }
    objects = render(values=values)
    rules = find(objects, "NetworkPolicy", "gpuid-operator")["spec"]
    ports = {(item["port"], item["protocol"]) for rule in rules["egress"] for item in rule["ports"]}
    assert ports == {(53, "UDP"), (53, "TCP"), (443, "TCP"), (6443, "TCP"), (5432, "TCP")}
    (ingress,) = rules["ingress"]
    test_pod = find(objects, "Pod")["metadata"]["labels"]
    peers = [
        peer["podSelector"]["matchLabels"] for peer in ingress["from"] if "podSelector" in peer
    ]
    assert any(peer.items() <= test_pod.items() for peer in peers)
    silent = find(objects, "NetworkPolicy", "gpuid-operator-reader")["spec"]
    assert silent["policyTypes"] == ["Ingress", "Egress"]
    assert not silent.keys() & {"ingress", "egress"}


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
    places = {item[0] for item in rights(objects) if item[2] == "pods/exec"}
    assert places == {target.namespace for target in settings.targets}


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


def test_long_names_stay_within_bounds() -> None:
    values: Manifest = {**EVERYTHING, "fullnameOverride": "n" * 63}
    for item in render(values=values):
        if item["kind"] != "CustomResourceDefinition":
            assert len(item["metadata"]["name"]) <= 63
