"""The reader pods of the Helm chart: each mode has what it needs, and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuid_operator.plan.presets import expand
from tests.support.chart_values import load
from tests.support.gotools import go_tool
from tests.support.manifests import (
    CHART,
    KUBERNETES,
    Manifest,
    RenderError,
    find,
    footprint,
    pod_specs,
    render,
    rights,
)

MODES = ("runtimeClass", "volumeMounts", "nri", "hostDriver", "dra")
NAME = "gpuid-operator-reader"


def reader(**values: Any) -> list[Manifest]:
    return render(values={"reader": {"enabled": True, **values}})


def pod(objects: list[Manifest]) -> Manifest:
    return pod_specs(objects)[f"DaemonSet/{NAME}"]


def container(objects: list[Manifest]) -> Manifest:
    (only,) = pod(objects)["containers"]
    return dict(only)


def variables(objects: list[Manifest]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container(objects).get("env", ())}


@pytest.mark.parametrize("mode", MODES)
def test_the_reader_comes_first_and_allocates_no_gpu(mode: str) -> None:
    objects = reader(mode=mode)
    daemonset = find(objects, "DaemonSet")
    first, *others = load(objects).targets
    assert (first.namespace, first.container) == (daemonset["metadata"]["namespace"], "reader")
    wanted = dict(part.split("=") for part in first.selector.split(","))
    assert wanted.items() <= daemonset["spec"]["template"]["metadata"]["labels"].items()
    assert tuple(others) == expand("auto")
    assert "nvidia.com/gpu" not in json.dumps(container(objects)["resources"])


@pytest.mark.parametrize("mode", MODES)
def test_only_the_mode_that_needs_more_gets_more(mode: str) -> None:
    objects = reader(mode=mode)
    spec, made = pod(objects), {item["kind"] for item in objects}
    security = container(objects)["securityContext"]
    assert security.get("privileged", False) == (mode == "hostDriver")
    assert spec["securityContext"]["runAsNonRoot"] and security["readOnlyRootFilesystem"]
    assert bool(spec.get("volumes")) == (mode in ("volumeMounts", "hostDriver"))
    assert ("runtimeClassName" in spec) == (mode in ("runtimeClass", "volumeMounts"))
    assert ("resourceClaims" in spec) == (mode == "dra")
    assert made & {"Namespace"} == ({"Namespace"} if mode == "dra" else set())
    annotations = find(objects, "DaemonSet")["spec"]["template"]["metadata"].get("annotations")
    assert bool(annotations) == (mode == "nri")
    namespace = NAME if mode == "dra" else "gpuid"
    assert rights(objects) == footprint(namespace, "gpu-operator")


def test_by_the_runtime() -> None:
    objects = reader()
    assert pod(objects)["runtimeClassName"] == "nvidia"
    assert variables(objects) == {
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "utility",
    }
    by_default = reader(runtimeClassName="")
    assert "runtimeClassName" not in pod(by_default)
    assert variables(by_default) == variables(objects)


def test_by_volume_mounts() -> None:
    """As the NVIDIA container runtime has them: the device's name as a path, /dev/null behind."""
    objects = reader(mode="volumeMounts", runtimeClassName="")
    (volume,) = pod(objects)["volumes"]
    (mount,) = container(objects)["volumeMounts"]
    assert volume == {"name": mount["name"], "hostPath": {"path": "/dev/null"}}
    assert mount["mountPath"] == "/var/run/nvidia-container-devices/all"
    assert variables(objects)["NVIDIA_VISIBLE_DEVICES"] == "/var/run/nvidia-container-devices"


def test_by_nri() -> None:
    objects = reader(mode="nri", namespace="gpu-operator", podAnnotations={"mine": "kept"})
    daemonset = find(objects, "DaemonSet")
    assert daemonset["metadata"]["namespace"] == "gpu-operator"
    key = f"nvidia.cdi.k8s.io/container.{container(objects)['name']}"
    annotations = {key: "management.nvidia.com/gpu=all", "mine": "kept"}
    assert daemonset["spec"]["template"]["metadata"]["annotations"] == annotations
    assert rights(objects) == footprint("gpu-operator")


def test_by_the_driver_of_the_host() -> None:
    folders = {"root": "/run/nvidia/driver", "devices": "/run/nvidia/driver/dev"}
    objects = reader(mode="hostDriver", hostDriver=folders)
    sources = {item["name"]: item["hostPath"]["path"] for item in pod(objects)["volumes"]}
    mounts = {
        sources[item["name"]]: (item["mountPath"], item["readOnly"])
        for item in container(objects)["volumeMounts"]
    }
    assert mounts == {
        "/run/nvidia/driver": ("/host", True),
        "/run/nvidia/driver/dev": ("/dev", True),
    }
    first = load(objects).targets[0]
    assert first.command == ("python3", "-m", "gpuid_operator.cli.host_smi", "/host")


def test_by_a_claim() -> None:
    objects = reader(mode="dra", dra={"deviceClassName": "gpu.example.com"})
    namespace, template = find(objects, "Namespace"), find(objects, "ResourceClaimTemplate")
    assert namespace["metadata"]["name"] == template["metadata"]["namespace"] == NAME
    assert namespace["metadata"]["labels"]["resource.kubernetes.io/admin-access"] == "true"
    (request,) = template["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"] == {
        "deviceClassName": "gpu.example.com",
        "allocationMode": "All",
        "adminAccess": True,
        "tolerations": [{"operator": "Exists"}],
    }
    (claim,) = pod(objects)["resourceClaims"]
    assert claim["resourceClaimTemplateName"] == template["metadata"]["name"]
    assert container(objects)["resources"]["claims"] == [{"name": claim["name"]}]


def test_a_changed_claim_template_has_another_name() -> None:
    """Templates are immutable: an upgrade could not change one."""

    def name(**dra: Any) -> str:
        objects = reader(mode="dra", dra=dra)
        return str(find(objects, "ResourceClaimTemplate")["metadata"]["name"])

    assert name() == name() != name(deviceClassName="gpu.example.com") != name(tolerations=[])


def test_a_namespace_that_exists_is_not_created() -> None:
    objects = reader(mode="dra", namespace="nvidia-dra-driver", dra={"createNamespace": False})
    assert "Namespace" not in {item["kind"] for item in objects}
    assert find(objects, "ResourceClaimTemplate")["metadata"]["namespace"] == "nvidia-dra-driver"
    assert rights(objects) == footprint("nvidia-dra-driver", "gpu-operator")


@pytest.mark.parametrize(
    ("older", "mode"),
    [
        ({"mode": "driverRoot"}, "hostDriver"),
        ({"mode": "claim"}, "dra"),
        ({"deviceList": "volume-mounts"}, "volumeMounts"),
    ],
    ids=str,
)
def test_other_names_of_a_mode_mean_the_same(older: Manifest, mode: str) -> None:
    assert reader(**older) == reader(mode=mode)


def test_additions_of_ones_own() -> None:
    claim = {"name": "mine", "resourceClaimName": "a-claim"}
    volume = {"name": "extra", "emptyDir": {}}
    mount = {"name": "extra", "mountPath": "/extra"}
    for mode in MODES:
        bare = reader(mode=mode)
        objects = reader(
            mode=mode,
            extraEnv=[{"name": "LOUD", "value": "1"}],
            extraEnvFrom=[{"configMapRef": {"name": "some"}}],
            extraVolumes=[volume],
            extraVolumeMounts=[mount],
            resourceClaims=[claim],
            podLabels={"team": "gpu"},
            podAnnotations={"note": "x"},
            daemonSetAnnotations={"note": "z"},
            securityContext={"runAsUser": 0, "runAsNonRoot": False},
        )
        spec, only = pod(objects), container(objects)
        assert variables(objects) == variables(bare) | {"LOUD": "1"}
        assert only["envFrom"] == [{"configMapRef": {"name": "some"}}]
        assert spec["volumes"] == [*pod(bare).get("volumes", ()), volume]
        assert only["volumeMounts"] == [*container(bare).get("volumeMounts", ()), mount]
        assert claim in spec["resourceClaims"]
        assert {"name": "mine"} in only["resources"]["claims"]
        assert only["resources"]["limits"] == container(bare)["resources"]["limits"]
        ours = {"runAsUser": 0, "runAsNonRoot": False}
        assert only["securityContext"] == container(bare)["securityContext"] | ours
        daemonset = find(objects, "DaemonSet")
        assert daemonset["metadata"]["annotations"] == {"note": "z"}
        metadata = daemonset["spec"]["template"]["metadata"]
        assert metadata["labels"]["team"] == "gpu" and metadata["annotations"]["note"] == "x"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mode": "runtimeclass"}, "mode"),
        ({"mode": "dra", "deviceList": "volume-mounts"}, "remove reader.deviceList"),
        ({"mode": "dra", "namespace": "gpuid"}, "a namespace of its own"),
        ({"hostDriver": {"root": "opt"}}, "root"),
        ({"namespace": "Upper"}, "namespace"),
    ],
    ids=str,
)
def test_refusals_name_the_value(values: Manifest, said: str) -> None:
    with pytest.raises(RenderError) as refusal:
        reader(**values)
    assert said in str(refusal.value)


def test_a_cluster_without_the_api_of_claims_is_refused(tmp_path: Path) -> None:
    """No option of Helm takes an API away, so this chart asks for one that no server has."""
    shutil.copytree(CHART, tmp_path / "chart")
    helpers = tmp_path / "chart" / "templates" / "_helpers.tpl"
    asked = '.Has "resource.k8s.io/v1"'
    assert asked in helpers.read_text()
    helpers.write_text(helpers.read_text().replace(asked, '.Has "resource.k8s.io/v0"'))
    command = [str(go_tool("helm3")), "template", str(tmp_path / "chart"), KUBERNETES]
    command += ["--values", "-"]
    done = {
        mode: subprocess.run(
            command,
            input=yaml.safe_dump({"reader": {"enabled": True, "mode": mode}}),
            capture_output=True,
            text=True,
            check=False,
        )
        for mode in ("dra", "nri")
    }
    assert "needs the API resource.k8s.io/v1 (Kubernetes 1.34 or newer)" in done["dra"].stderr
    assert done["nri"].returncode == 0


@pytest.mark.parametrize("mode", MODES)
def test_reader_pods_render_alone(mode: str) -> None:
    """As docs/install.md does with kustomize."""
    values = {"reader": {"enabled": True, "mode": mode}}
    alone = render("--show-only", "templates/reader.yaml", values=values)
    assert {item["kind"] for item in alone} >= {"DaemonSet"}
    for item in alone:
        assert item in render(values=values)
        assert item["metadata"]["labels"]["app.kubernetes.io/component"] == "reader"


def test_the_network_policy_is_where_the_reader_is() -> None:
    values = {"reader": {"enabled": True, "mode": "dra"}, "networkPolicy": {"enabled": True}}
    policy = find(render(values=values), "NetworkPolicy", NAME)
    assert policy["metadata"]["namespace"] == NAME
