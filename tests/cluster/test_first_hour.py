"""Every error of the first hour on a real API server: it says what to do, and so does the page
docs/troubleshooting.md."""

from __future__ import annotations

import copy
import json
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from gpuid_operator.localcluster.ports import free_ports
from tests.cluster.test_operator_access import role, service_account
from tests.support.crds import delete_crds
from tests.support.gotools import go_tool
from tests.support.manifests import CHART, DEPLOYMENT, ROOT, RenderError, render_text
from tests.support.operators import (
    INVENTORIES,
    STARTS_WITHIN,
    Operator,
    eventually,
    read_well,
    status,
)
from tests.support.smi_fixtures import machine

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
NODE = "gpu-first-hour"
PODS = "/api/v1/namespaces/gpu-operator/pods"


def documented(said: str, *words: str) -> None:
    """The words are in what was said, and the page has each of them as a message to look up."""
    for one in words:
        assert one in said, said
        assert re.search(rf"`[^`\n]*{re.escape(one)}", PAGE), f"docs/troubleshooting.md lacks {one}"


def log(operator: Operator) -> str:
    return "\n".join(
        " ".join(str(line.get(field, "")) for field in ("msg", "error", "advice"))
        for line in operator.lines()
    )


def logs(operator: Operator, *documented_words: str, advice: str) -> None:
    """The log has the words that the page has, and what to do."""

    def found() -> None:
        said = log(operator)
        documented(said, *documented_words)
        assert advice in said, said

    eventually(found, within=STARTS_WITHIN)


@pytest.fixture
def node(fleet: LocalCluster) -> Iterator[str]:
    fleet.add_node(NODE, xml=machine(NODE))
    yield NODE
    fleet.delete_node(NODE)
    fleet.client.send(Request("DELETE", f"{INVENTORIES}/{NODE}", tolerate=(404,)))


def changed(fleet: LocalCluster, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The kubeconfig of the cluster with a change."""
    config = json.loads(fleet.kubeconfig.read_text())
    change(config)
    file = tmp_path / "config"
    file.write_text(json.dumps(config))
    return file


class TestNoCluster:
    def test_no_kubeconfig(self, fleet: LocalCluster, tmp_path: Path) -> None:
        with Operator(fleet, kubeconfig=tmp_path / "absent", ready=False) as operator:
            logs(operator, "no cluster: no kubeconfig at", advice="set KUBECONFIG to a kubeconfig")

    def test_a_context_that_does_not_exist(self, fleet: LocalCluster, tmp_path: Path) -> None:
        config = changed(fleet, tmp_path, lambda config: config.update({"current-context": "x"}))
        with Operator(fleet, kubeconfig=config, ready=False) as operator:
            logs(operator, "failed to load the kubeconfig", advice="`kubectl config get-contexts`")

    def test_a_server_that_does_not_answer(self, fleet: LocalCluster, tmp_path: Path) -> None:
        (port,) = free_ports(1)

        def stop(config: dict[str, Any]) -> None:
            config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"

        with Operator(fleet, kubeconfig=changed(fleet, tmp_path, stop), ready=False) as operator:
            logs(
                operator,
                "no answer from the API server",
                advice="check that the API server is running",
            )

    def test_credentials_that_have_expired(self, fleet: LocalCluster, tmp_path: Path) -> None:
        def expire(config: dict[str, Any]) -> None:
            config["users"][0]["user"] = {"token": "old"}

        with Operator(fleet, kubeconfig=changed(fleet, tmp_path, expire), ready=False) as operator:
            logs(operator, "the API server answered 401", advice="renew the credentials")


def test_no_rights(fleet: LocalCluster) -> None:
    with Operator(fleet, kubeconfig=service_account(fleet), ready=False) as operator:
        logs(
            operator,
            "is forbidden:",
            "the API server answered 403",
            advice="grant this permission: docs/install.md has the list under Permissions",
        )


def test_no_crds(fleet: LocalCluster, tmp_path: Path) -> None:
    delete_crds(fleet)
    # A kubectl that has seen the kind before remembers it for some minutes.
    known = fleet.kubectl("get", "gpuinventory", check=False).stderr
    documented(known, "the server could not find the requested resource (get gpuinventories")

    def unknown() -> None:
        cache = f"--cache-dir={tmp_path / secrets.token_hex(8)}"
        said = fleet.kubectl("get", "gpuinventory", cache, check=False).stderr
        documented(said, 'the server doesn\'t have a resource type "gpuinventory"')

    eventually(unknown)
    with Operator(fleet, ready=False) as operator:
        logs(
            operator,
            "waiting for the CRDs",
            advice="install them with `kubectl apply -f crds/` or the chart",
        )
        fleet.kubectl("apply", "-f", str(ROOT / "crds"))
        operator.wait_ready()


def test_no_gpu_node(fleet: LocalCluster) -> None:
    said = fleet.kubectl("get", "gpuinventory").stderr
    documented(said, "No resources found")
    with Operator(fleet) as operator:
        logs(
            operator, "found no target pod and no GPU node", advice="simulated GPUs (deployment/sim"
        )


def test_targets_in_another_namespace(fleet: LocalCluster, node: str) -> None:
    with Operator(fleet, NAMESPACE="elsewhere"):
        ready = eventually(lambda: not_ready(fleet, node, "NoTargetPod"))
    documented(ready, "no target pod on this node")
    assert "namespace elsewhere" in ready
    assert "check its settings NAMESPACE, LABEL_SELECTOR and TARGETS" in ready


def test_a_namespace_of_targets_without_rights(fleet: LocalCluster, node: str) -> None:
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}
    ours = {"apiGroups": ["gpuid.github.com"], "resources": ["*"], "verbs": ["*"]}
    patch = {"apiGroups": [""], "resources": ["nodes", "events"], "verbs": ["patch", "create"]}
    rules = role(None, everything, ours, patch)
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": rules})
    fleet.kubectl("apply", "-f", "-", input=text)
    with Operator(fleet, kubeconfig=service_account(fleet)):
        said = eventually(lambda: not_ready(fleet, node, "Forbidden"))
    assert "grant get and create on pods/exec" in said
    fleet.kubectl("delete", "-f", "-", input=text)


def not_ready(fleet: LocalCluster, node: str, reason: str) -> str:
    """The message of the node; the table and the page have the reason."""
    conditions = {one["type"]: one for one in status(fleet, node)["conditions"]}
    ready = conditions["Ready"]
    assert (ready["status"], ready["reason"]) == ("False", reason)
    header, row = fleet.kubectl("get", "gpuinventory", node).stdout.splitlines()
    assert row[header.index("REASON") :].startswith(reason)
    documented(reason, reason)
    return str(ready["message"])


def test_the_image_of_the_target_is_not_pulled(fleet: LocalCluster, node: str) -> None:
    pod = fleet.wait_plugin(node)
    seen = copy.deepcopy(pod["status"])
    (container,) = seen["containerStatuses"]
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "plugin:typo"'}
    container |= {"ready": False, "started": False, "state": {"waiting": waiting}}
    for one in seen["conditions"]:
        if one["type"] in ("Ready", "ContainersReady"):
            one["status"] = "False"
    patch = {"status": {key: seen[key] for key in ("containerStatuses", "conditions")}}
    path = f"{PODS}/{pod['metadata']['name']}/status"
    fleet.client.send(Request("PATCH", path, patch, content_type=MERGE))
    with Operator(fleet, periods={"pod_grace": 0.5}):
        said = eventually(lambda: not_ready(fleet, node, "NoTargetPod"))
        documented(said, "is not running: failed to pull its image")
        assert f"kubectl describe pod -n gpu-operator {pod['metadata']['name']}`" in said
        fleet.start_plugin(node)
        eventually(lambda: read_well(fleet, node))


@pytest.fixture(scope="module", params=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_notes_say_what_to_do_if_the_image_is_not_pulled(
    fleet: LocalCluster, helm: str
) -> None:
    # Not the usual name: an earlier test has made a ServiceAccount that Helm does not take over.
    command = [str(go_tool(helm)), "install", "notes", str(CHART), "--namespace", "gpuid"]
    command += ["--dry-run=server", "--set", "crds.install=false"]
    command += [f"--kubeconfig={fleet.kubeconfig}"]

    def notes(*options: str) -> str:
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    documented(notes(), "ErrImagePull", "ImagePullBackOff")
    assert "set image.registry to the registry that has it" in notes()
    assert "image.registry is empty" not in notes("--set", "image.registry=registry.example.com")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"imgae": {"registry": "r"}}, ["'imgae' not allowed"]),
        ({"image": {"registri": "r"}}, ["at '/image'", "'registri' not allowed"]),
        ({"exporter": {"type": "postgresql"}}, ["at '/exporter/type'", "'postgres'"]),
    ],
)
def test_a_misspelt_value_of_the_chart(helm: str, values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RenderError) as error:
        render_text(values=values, helm=helm)
    for one in words:
        assert one in str(error.value)
    if "not allowed" in str(error.value):
        documented(str(error.value), "additional properties '")


def applied(fleet: LocalCluster, spec: dict[str, Any], *options: str) -> str:
    """The error of kubectl for a policy with this spec."""
    policy = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventoryPolicy",
        "metadata": {"name": "first"},
        "spec": spec,
    }
    text = yaml.safe_dump(policy)
    done = fleet.kubectl("apply", "--dry-run=server", *options, "-f", "-", input=text, check=False)
    return done.stderr if done.returncode else ""


def test_a_policy_with_a_value_that_is_not_allowed(fleet: LocalCluster) -> None:
    sink = {"name": "cmdb", "http": {"url": "http://cmdb.example.com/gpus"}}
    said = applied(fleet, {"sinks": [sink]})
    documented(said, "The GPUInventoryPolicy ")
    assert "is invalid: spec.sinks[0].http" in said
    assert "must begin with https://; set insecure: true to send in clear text" in said


def test_a_policy_with_a_misspelt_field(fleet: LocalCluster) -> None:
    said = applied(fleet, {"resnyc": "1h"})
    documented(said, "strict decoding error: unknown field")
    assert '"spec.resnyc"' in said


def test_a_policy_with_checks_of_someone_who_is_no_author(fleet: LocalCluster) -> None:
    guard = ("-f", str(DEPLOYMENT / "policy" / "checks-authors.yaml"))
    writer = ("clusterrolebinding", "first-hour")
    fleet.kubectl("create", *writer, "--clusterrole=cluster-admin", "--user=bob")
    fleet.kubectl("apply", *guard)

    def refused() -> None:
        # Another command each time: checks that stay as they are may be written by anyone.
        check = {"name": "c", "podSelector": {}, "command": f"echo {secrets.token_hex(8)}"}
        said = applied(fleet, {"checks": [check]}, "--as=bob")
        documented(said, "spec.checks runs commands on GPU nodes;")
        assert "bob is not among those who may write it (see the ValidatingAdmissionPolicy" in said

    try:
        eventually(refused)
    finally:
        fleet.kubectl("delete", *guard)
        fleet.kubectl("delete", *writer)
