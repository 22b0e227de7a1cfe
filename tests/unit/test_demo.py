"""The decisions of the demo: what it refuses in a cluster of the user, and with which words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from click.testing import CliRunner

from gpuid_operator.cli.demo import demo, preflight, simulated
from gpuid_operator.cli.demo.console import DemoError
from gpuid_operator.cli.demo.results import results_of
from gpuid_operator.cli.demo.user import _environment, _Installation
from gpuid_operator.cli.demo.user_cluster import UserCluster, kubeconfig_with
from gpuid_operator.kube.credentials import KubeConfig

ROOT = Path(__file__).parents[2]
READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def node(name: str = "n", *, taint: str = "", effect: str = "NoSchedule", **labels: str) -> Any:
    taints = [{"key": taint, "effect": effect}] if taint else []
    metadata = {"name": name, "labels": {key.replace("__", "/"): labels[key] for key in labels}}
    return {"metadata": metadata, "spec": {"taints": taints}, "status": READY}


def labelled(**labels: str) -> Any:
    return {**node(), "metadata": {"name": "n", "labels": labels}}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (node(), None),
        (node(taint="node.kubernetes.io/unschedulable"), None),  # DaemonSets tolerate it
        (node(taint="soft", effect="PreferNoSchedule"), None),
        ({**node(), "status": {}}, "is not Ready"),
        (node(taint="dedicated"), "has the taint dedicated"),
        (node(taint="dedicated", effect="NoExecute"), "has the taint dedicated"),
        (labelled(**{"nvidia.com/gpu.present": "true"}), "has a GPU of its own"),
        (labelled(**{"nvidia.com/gpu.present": "false"}), None),
        (labelled(**{"cloud.google.com/gke-accelerator": "h100"}), "has a GPU of its own"),
        (labelled(**{"kubernetes.io/os": "windows"}), "does not run Linux"),
    ],
)
def test_which_nodes_get_simulated_gpus(body: Any, problem: str | None) -> None:
    found = preflight.node_problem(body)
    assert found == problem or (found and problem and found.startswith(problem))


def refusal(*arguments: Any, of: Any, **options: Any) -> str:
    with pytest.raises(DemoError) as error:
        of(*arguments, **options)
    return str(error.value)


def test_without_a_usable_node_each_one_has_its_reason() -> None:
    tainted = [node(f"n{number}", taint="dedicated") for number in range(7)]
    assert preflight.usable_nodes("c", [*tainted, node("b"), node("a")]) == ["a", "b"]
    said = refusal("c", tainted, of=preflight.usable_nodes)
    assert "n0 has the taint dedicated; n1 has" in said
    assert "and 2 more. Look at them with `kubectl --context c get nodes`" in said
    assert refusal("c", [], of=preflight.usable_nodes).endswith("has no nodes; add one")


def test_a_context_that_does_not_exist() -> None:
    preflight.require_context("a", known=("a", "b"))
    said = refusal("x", known=("a", "b"), of=preflight.require_context)
    assert said == "there is no context x in the kubeconfig; choose one of a, b"
    assert "set KUBECONFIG" in refusal("x", known=(), of=preflight.require_context)


def test_missing_rights_are_named() -> None:
    preflight.require_rights("c", [])
    missing = [preflight.RIGHTS[1], preflight.Right("get", "pods", subresource="exec")]
    said = refusal("c", missing, of=preflight.require_rights)
    assert "may not: create customresourcedefinitions.apiextensions.k8s.io, get pods/exec." in said
    assert "cluster-admin" in said
    assert missing[1].review["spec"] == {
        "resourceAttributes": {"verb": "get", "resource": "pods", "subresource": "exec"}
    }


def test_a_cluster_with_an_operator_is_left_alone() -> None:
    preflight.require_no_operator("c", inventories=[], nodes=[node()])
    said = refusal("c", inventories=["n"], nodes=[], of=preflight.require_no_operator)
    assert "has 1 GPUInventory objects already" in said
    labels = labelled(**{"gpuid.github.com/gpu-0": "1652823054567"})
    said = refusal("c", inventories=[], nodes=[labels], of=preflight.require_no_operator)
    assert "gpuid or gpuid-operator works there" in said


def test_only_a_namespace_of_an_earlier_demo_is_taken_over() -> None:
    ours = simulated.namespace(crds_created=True)
    assert not preflight.is_leftover("c", None)
    assert preflight.is_leftover("c", ours)
    others = {**ours, "metadata": {"name": simulated.NAMESPACE}}
    assert "no demo created" in refusal("c", others, of=preflight.is_leftover)
    going = copy.deepcopy(ours)
    going["metadata"]["deletionTimestamp"] = "2026-06-07T10:30:45Z"
    assert "try again in a minute" in refusal("c", going, of=preflight.is_leftover)


def test_an_image_that_is_not_pulled_is_named_with_what_to_do() -> None:
    def pod(**state: Any) -> Any:
        status = {"containerStatuses": [{"name": "c", "state": state}]}
        return {"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": status}

    assert preflight.image_problem(pod(running={}), image="i", context="c") is None
    creating = {"reason": "ContainerCreating"}
    assert preflight.image_problem(pod(waiting=creating), image="i", context="c") is None
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image\n"i"'}
    said = preflight.image_problem(pod(waiting=waiting), image="i", context="c")
    assert said is not None
    assert 'cannot pull the image i: Back-off pulling image "i". Load it into the nodes' in said


def test_the_pods_are_those_of_deployment_simulated() -> None:
    """In another namespace and with another image; a copy of the files is in the package."""
    folder = ROOT / "deployment" / "simulated"
    expected = yaml.safe_load((folder / "daemonset.yaml").read_text())
    expected["metadata"]["namespace"] = "gpuid-demo"
    expected["spec"]["template"]["spec"]["containers"][0]["image"] = "image"
    assert simulated.daemon_set("image") == expected
    program = (folder / "simulated_gpus.py").read_text()
    assert simulated.config_map()["data"] == {"simulated_gpus.py": program}


async def test_the_operator_uses_the_context_and_no_setting_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cluster(name: str) -> dict[str, Any]:
        return {"name": name, "cluster": {"server": f"https://{name}"}}

    contexts = [{"name": n, "context": {"cluster": n, "user": "u"}} for n in ("one", "two")]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [cluster("one"), cluster("two")],
        "contexts": contexts,
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    for key, text in {"KUBECONFIG": "config", "TARGETS": "[]", "AWS_PROFILE": "p"}.items():
        monkeypatch.setenv(key, text)
    (tmp_path / "demo").mkdir()
    environment = _environment("two", tmp_path / "demo")
    assert (environment["NAMESPACE"], environment["AWS_PROFILE"]) == ("gpuid-demo", "p")
    assert "TARGETS" not in environment
    assert environment["KUBECONFIG"] == kubeconfig_with("two", tmp_path / "demo")
    monkeypatch.chdir("/")
    source = KubeConfig(paths=environment["KUBECONFIG"], context=None)
    assert (await source.load(rejected=False)).server == "https://two"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--yes"], "--image and --yes need --context"),
        (["--image", "i"], "--image and --yes need --context"),
        (["--context", "c", "--nodes", "3"], "--nodes: only for a local cluster"),
        (["--context", "c", "--gpu", "h100", "--dir", "d"], "--dir, --gpu: only for a local"),
    ],
)
def test_options_of_the_other_kind_of_cluster_are_refused(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(demo, arguments)
    assert (result.exit_code, result.output.count(words)) == (2, 1)


def test_the_table_is_that_of_kubectl(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [{"name": "Name"}, {"name": "Last Read"}, {"name": "Wide", "priority": 1}]
    rows = [{"cells": ["node-1", None, "x"]}, {"cells": ["n", "2s", "y"]}]
    table = {"columnDefinitions": columns, "rows": rows}
    cluster = UserCluster("c")
    monkeypatch.setattr(cluster, "get", lambda path, accept: table)
    assert cluster.table("/path") == "NAME     LAST READ\nnode-1   <none>\nn        2s\n"


class Recorder:
    """In place of a cluster: it has CRDs, one node with a label of ours, and the namespace."""

    context = "c"

    def __init__(self, *, failing: str = "") -> None:
        self.failing = failing
        self.requests: list[str] = []
        self.deleted: set[str] = set()
        self.found: list[tuple[str, bool]] = []
        """What was asked for, and whether a CRD had been deleted already."""

    def get(self, path: str) -> Any:
        labels = {"gpuid.github.com/gpu-0": "1", "other": "2"}
        return {"items": [{"metadata": {"name": "n", "labels": labels}}]}

    def find(self, path: str) -> Any:
        self.found.append((path, any("customresourcedefinitions" in one for one in self.deleted)))
        if path in self.deleted:
            return None
        return {"items": [{"metadata": {"name": "n"}}]}

    def patch(self, path: str, body: Any) -> None:
        self.requests.append(f"PATCH {path} {body['metadata']['labels']}")

    def delete(self, path: str) -> None:
        if self.failing and self.failing in path:
            raise DemoError(f"DELETE {path}: refused")
        self.deleted.add(path)
        self.requests.append(f"DELETE {path.rpartition('/')[2]}")


@pytest.mark.parametrize("failing", ["", "customresourcedefinitions"])
def test_everything_that_can_be_removed_is_and_the_rest_has_its_command(
    failing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Recorder(failing=failing)
    crds = [{"metadata": {"name": "gpuinventories.gpuid.github.com"}}]
    made = _Installation(cast("Any", cluster), image="i", crds=crds, leftover=False)
    made.__exit__()
    removed = [] if failing else ["DELETE gpuinventories.gpuid.github.com"]
    assert cluster.requests == [
        "DELETE n",
        *removed,
        "PATCH /api/v1/nodes/n {'gpuid.github.com/gpu-0': None}",
        "DELETE gpuid-demo",
    ]
    # The API server may get stuck where it was never asked for the objects of the kind.
    objects = "/apis/gpuid.github.com/v1alpha1/gpuinventories"
    assert cluster.found[1] == (objects, False)
    advice = "`kubectl --context c delete crd gpuinventories.gpuid.github.com`"
    assert (advice in capsys.readouterr().err) == bool(failing)


def test_a_node_without_an_inventory_has_no_result() -> None:
    (result,) = results_of(["n"], []).values()
    assert not result.good
    assert result.trouble == "n  no result: the operator has not read the node"
