"""The demo in a cluster of the user: what it asks, makes, removes and refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from gpuid_operator.localcluster.hardware import Hardware
from gpuid_operator.localcluster.layout import Layout
from gpuid_operator.localcluster.nodes import SIMULATED, node
from gpuid_operator.localcluster.ports import free_ports
from gpuid_operator.localcluster.waiting import wait_for
from tests.support.crds import CRDS, delete_crds
from tests.support.manifests import ROOT
from tests.support.operators import INVENTORIES, eventually
from tests.support.smi_fixtures import machine

DEADLINE = 120.0
NODES = ("plain-1", "plain-2")
CONTEXT = "gpuid-local"
"""The name in the kubeconfig of a local cluster."""
PODS = "/api/v1/namespaces/gpuid-demo/pods"


@pytest.fixture(scope="module")
def users(local_cluster: Callable[..., LocalCluster]) -> Iterator[LocalCluster]:
    """A cluster like one of the user's: two nodes without GPUs, and nothing of ours."""
    cluster = local_cluster(nodes=0)
    delete_crds(cluster)
    for name in NODES:
        make_plain_node(cluster, name)
    yield cluster
    cluster.down()


def make_plain_node(cluster: LocalCluster, name: str, *, played: bool = True) -> None:
    """A node without any sign of a GPU; its containers have the simulated nvidia-smi.

    KWOK is its kubelet, unless it is not `played`.
    """
    body = node(
        name,
        gpus=0,
        product="",
        instance_type="m7i.large",
        provider_id=None,
        labels={},
        object_bytes=None,
    )
    labels = body["metadata"]["labels"]
    for key in [key for key in labels if key.startswith("nvidia.com/")]:
        del labels[key]
    body["spec"].pop("taints")
    if not played:
        for key in SIMULATED:
            del labels[key]
        body["status"]["conditions"] = [{"type": "Ready", "status": "True", "reason": "Test"}]
    for resources in (body["status"]["capacity"], body["status"]["allocatable"]):
        resources.pop("nvidia.com/gpu", None)  # both may be the same
    Hardware(Layout(cluster.directory), name).write_smi(machine(name))
    cluster.client.send(Request("POST", "/api/v1/nodes", body))

    def ready() -> None:
        conditions = cluster.client.get(f"/api/v1/nodes/{name}")["status"]["conditions"]
        assert ("Ready", "True") in {(one["type"], one["status"]) for one in conditions}

    eventually(ready)


class Demo:
    """`gpuid-operator demo --context` as a process."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self._folder = folder
        self._environment = os.environ | {
            "KUBECONFIG": str(cluster.kubeconfig),
            "TMPDIR": str(folder),
            "NAMESPACE": "a-setting-of-the-user",
        }

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        program = Path(sys.executable).with_name("gpuid-operator")
        with (self._folder / "out").open("wb") as out, (self._folder / "err").open("wb") as err:
            return subprocess.Popen(
                [str(program), "demo", "--context", CONTEXT, *arguments],
                env=self._environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def run(self, *arguments: str, **variables: str) -> int:
        return self.start(*arguments, **variables).wait(DEADLINE)

    @property
    def out(self) -> str:
        return (self._folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self._folder / "err").read_text()

    def processes(self) -> list[int]:
        """Those that have the temporary directory of this demo."""
        mark = f"TMPDIR={self._folder}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # gone, or another user's
                continue
        return found

    def refuses(self, *words: str, arguments: tuple[str, ...] = ("--yes", "--once")) -> None:
        assert self.run(*arguments) == 1, self.out
        for one in words:
            assert one in self.err


@pytest.fixture
def demo(users: LocalCluster, tmp_path: Path) -> Demo:
    return Demo(users, tmp_path)


def ours(cluster: LocalCluster) -> dict[str, Any]:
    """Everything that a demo makes and is there."""
    nodes = cluster.client.get("/api/v1/nodes")["items"]
    labels = [key for one in nodes for key in one["metadata"]["labels"]]
    namespaces = cluster.client.get("/api/v1/namespaces")["items"]
    crds = cluster.client.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]
    return {
        "labels": [key for key in labels if key.startswith("gpuid.github.com/")],
        "namespaces": [one for one in namespaces if one["metadata"]["name"] == "gpuid-demo"],
        "crds": [one for one in crds if one["metadata"]["name"] in CRDS],
    }


def nothing_is_left(cluster: LocalCluster) -> None:
    assert not any(ours(cluster).values()), ours(cluster)


def test_it_says_what_it_creates_and_without_a_yes_creates_nothing(
    users: LocalCluster, demo: Demo
) -> None:
    assert demo.run("--once") == 1
    assert f"In the cluster of context {CONTEXT} ({users.server}), the demo creates:" in demo.err
    assert "a pod of the image python:3.13-alpine on 2 nodes" in demo.err
    assert demo.err.rstrip().endswith("Aborted!")
    nothing_is_left(users)


def test_it_shows_the_table_and_removes_everything(users: LocalCluster, demo: Demo) -> None:
    assert demo.run("--yes", "--once") == 0, demo.err
    header, *rows = [re.split(r"\s{3,}", line) for line in demo.out.splitlines()]
    assert header[:6] == ["NAME", "GPUS", "PRODUCT", "DRIVER", "STATE", "READY"]
    assert [row[0] for row in rows] == list(NODES)
    assert {row[5] for row in rows} == {"True"}
    nothing_is_left(users)


def test_its_guide_works_and_after_ctrl_c_everything_is_removed(
    users: LocalCluster, demo: Demo
) -> None:
    process = demo.start("--yes")
    wait_for("the guide", lambda: "gpu serial number reading" in demo.out, timeout=DEADLINE)
    commands = re.findall(r"^  (kubectl .*|grep .*)", demo.out, re.MULTILINE)
    environment = {"KUBECONFIG": str(users.kubeconfig)}
    path = f"{users.kubectl_program.parent}:{os.environ['PATH']}"
    for command in commands:
        if "swap-gpu" in command:  # not in simulated containers; tests/node runs it
            continue
        done = subprocess.run(
            ["bash", "-ec", command],
            env=os.environ | environment | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), command
        assert done.stdout.strip(), command
    assert ours(users)["labels"]
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 0, demo.err
    nothing_is_left(users)


def test_a_demo_that_was_killed_is_taken_over_and_removed(users: LocalCluster, demo: Demo) -> None:
    process = demo.start("--yes")
    wait_for("the guide", lambda: "gpu serial number reading" in demo.out, timeout=DEADLINE)
    process.kill()
    process.wait()
    wait_for("the operator to end with it", lambda: not demo.processes(), timeout=DEADLINE)
    assert all(ours(users).values())
    assert demo.run("--yes", "--once") == 0, demo.err
    assert "an earlier demo was not removed; this one takes its place" in demo.err
    nothing_is_left(users)


def test_crds_that_were_there_stay(users: LocalCluster, demo: Demo) -> None:
    users.kubectl("apply", "-f", str(ROOT / "crds"))
    assert demo.run("--yes", "--once") == 0, demo.err
    assert "CustomResourceDefinitions" not in demo.err
    assert len(ours(users)["crds"]) == len(CRDS)
    assert users.client.get(INVENTORIES)["items"] == []
    delete_crds(users)
    nothing_is_left(users)


class TestRefusals:
    def test_a_context_that_does_not_exist(self, demo: Demo) -> None:
        arguments = ("--yes", "--once", "--context", "other")
        demo.refuses(
            f"there is no context other in the kubeconfig; choose one of {CONTEXT}",
            arguments=arguments,
        )

    def test_a_server_that_does_not_answer(self, users: LocalCluster, tmp_path: Path) -> None:
        (port,) = free_ports(1)
        demo = changed(users, tmp_path, server=f"https://127.0.0.1:{port}")
        demo.refuses(
            f"context {CONTEXT}: GET /version: no answer from the API server",
            "check that the API server is running",
        )

    def test_credentials_that_have_expired(self, users: LocalCluster, tmp_path: Path) -> None:
        demo = changed(users, tmp_path, token="old")
        demo.refuses("rejects the credentials of the kubeconfig (401); log in again")

    def test_a_user_who_may_only_read(self, users: LocalCluster, tmp_path: Path) -> None:
        account = ("serviceaccount", "reader", "--namespace=default")
        binding = ("clusterrolebinding", "reader")
        role = ("clusterrole", "reader")
        users.kubectl("create", *account)
        users.kubectl("create", *role, "--verb=get,list,watch", "--resource=*.*")
        users.kubectl("create", *binding, "--clusterrole=reader", "--serviceaccount=default:reader")
        token = users.kubectl("create", "token", "reader", "--namespace=default").stdout
        demo = changed(users, tmp_path, token=token)
        demo.refuses(
            "may not: create customresourcedefinitions.apiextensions.k8s.io",
            "Use a context with the rights of an administrator",
        )
        for one in (account, binding, role):
            users.kubectl("delete", *one)

    def test_a_cluster_without_a_node_that_can_run_the_pods(
        self, users: LocalCluster, demo: Demo
    ) -> None:
        taint = {"spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]}}
        patch_nodes(users, taint)
        demo.refuses("plain-1 has the taint dedicated; plain-2 has the taint dedicated")
        patch_nodes(users, {"spec": {"taints": None}})

    def test_an_image_that_cannot_be_pulled(self, users: LocalCluster, demo: Demo) -> None:
        make_plain_node(users, "alone", played=False)
        process = demo.start("--yes", "--once", "--image", "python:typo")

        def ended() -> None:
            play_kubelet(users, "alone", image="python:typo")
            assert process.poll() is not None

        eventually(ended, within=DEADLINE)
        assert process.returncode == 1
        assert "cannot pull the image python:typo: Back-off pulling image" in demo.err
        assert "kind load docker-image python:typo" in demo.err
        nothing_is_left(users)
        users.kubectl("delete", "node", "alone")

    def test_a_cluster_with_inventories(self, users: LocalCluster, demo: Demo) -> None:
        users.kubectl("apply", "-f", str(ROOT / "crds"))
        body = {"apiVersion": "gpuid.github.com/v1alpha1", "kind": "GPUInventory"}
        text = json.dumps({**body, "metadata": {"name": "n"}})

        def create() -> None:
            assert users.kubectl("apply", "-f", "-", input=text, check=False).returncode == 0

        eventually(create)
        demo.refuses("has 1 GPUInventory objects already, so the demo leaves it alone")
        assert len(users.client.get(INVENTORIES)["items"]) == 1
        delete_crds(users)


def patch_nodes(cluster: LocalCluster, patch: Mapping[str, Any]) -> None:
    for name in NODES:
        cluster.client.send(Request("PATCH", f"/api/v1/nodes/{name}", patch, content_type=MERGE))


def play_kubelet(cluster: LocalCluster, node: str, *, image: str) -> None:
    """What a kubelet does that cannot pull the image of its pods: say so, and let them go."""
    waiting = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}
    for pod in cluster.client.get(PODS, fieldSelector=f"spec.nodeName={node}")["items"]:
        path = f"{PODS}/{pod['metadata']['name']}"
        if "deletionTimestamp" in pod["metadata"]:
            gone = Request("DELETE", f"{path}?gracePeriodSeconds=0", tolerate=(404,))
            cluster.client.send(gone)
            continue
        name = pod["spec"]["containers"][0]["name"]
        seen = {"name": name, "image": image, "imageID": "", "ready": False, "restartCount": 0}
        status = {"status": {"containerStatuses": [seen | {"state": {"waiting": waiting}}]}}
        patch = Request("PATCH", f"{path}/status", status, content_type=MERGE, tolerate=(404,))
        cluster.client.send(patch)


def changed(cluster: LocalCluster, folder: Path, *, server: str = "", token: str = "") -> Demo:
    """The demo with a kubeconfig that has another server or token."""
    config = json.loads(cluster.kubeconfig.read_text())
    if server:
        config["clusters"][0]["cluster"]["server"] = server
    if token:
        config["users"][0]["user"] = {"token": token}
    (folder / "config").write_text(json.dumps(config))
    demo = Demo(cluster, folder)
    demo._environment["KUBECONFIG"] = str(folder / "config")
    return demo
