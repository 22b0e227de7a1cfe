"""The local cluster does what the demo, the other tests and the benchmarks rely on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster, LocalClusterError, down, processes
from gpuid_operator.localcluster.client import Request
from gpuid_operator.localcluster.layout import Layout
from gpuid_operator.localcluster.processes import Identity
from gpuid_operator.localcluster.smi import generate
from gpuid_operator.localcluster.waiting import wait_for
from tests.support import audit

NODE = "gpu-node-0001"


def execute(cluster: LocalCluster, node: str, *command: str) -> subprocess.CompletedProcess[str]:
    pod = cluster.wait_plugin(node)["metadata"]["name"]
    return cluster.kubectl("exec", "-n", "gpu-operator", pod, "--", *command, check=False)


def read(cluster: LocalCluster, node: str) -> str:
    return execute(cluster, node, "nvidia-smi", "-q", "-x").stdout


def container_id(cluster: LocalCluster, node: str) -> str:
    return str(cluster.wait_plugin(node)["status"]["containerStatuses"][0]["containerID"])


@pytest.fixture
def extra(cluster: LocalCluster) -> Iterator[str]:
    """A node of the shared cluster that the test may do anything to."""
    cluster.add_node("gpu-extra", provider_id="aws:///us-east-1a/i-0123456789abcdef0")
    yield "gpu-extra"
    if "gpu-extra" in cluster.node_names:
        cluster.delete_node("gpu-extra")


def test_nodes_are_ready_and_look_like_gpu_nodes(cluster: LocalCluster) -> None:
    items = json.loads(cluster.kubectl("get", "nodes", "-o", "json").stdout)["items"]
    assert [item["metadata"]["name"] for item in items] == cluster.node_names
    assert all(item["spec"]["providerID"].startswith("aws:///") for item in items)
    assert len({item["spec"]["providerID"] for item in items}) == 3
    assert len({item["status"]["nodeInfo"]["bootID"] for item in items}) == 3
    assert {item["status"]["capacity"]["nvidia.com/gpu"] for item in items} == {"8"}


def test_namespaces_and_crds_are_there(cluster: LocalCluster) -> None:
    cluster.kubectl("get", "namespace", "gpu-operator", "gpuid")
    kinds = "gpuinventories,gpuinventorypolicies,gpuquarantines"
    assert cluster.kubectl("get", kinds).returncode == 0


def test_exec_prints_the_file_of_the_node(cluster: LocalCluster) -> None:
    for node in cluster.node_names:
        assert read(cluster, node) == cluster.smi_file(node).read_text()


def test_an_edit_shows_in_the_next_exec(cluster: LocalCluster, extra: str) -> None:
    cluster.write_smi(extra, generate("gb200", node="another"))
    found = ET.fromstring(read(cluster, extra).split("\n", 2)[2])
    assert {gpu.findtext("product_name") for gpu in found.iter("gpu")} == {"NVIDIA GB200"}


def test_exec_runs_a_shell_on_the_node_and_returns_its_code(cluster: LocalCluster) -> None:
    done = execute(cluster, NODE, "/bin/sh", "-c", "echo $NODE_NAME; echo problem >&2; exit 3")
    assert (done.stdout, done.returncode) == (f"{NODE}\n", 3)
    assert "problem" in done.stderr


def test_runs_of_nvidia_smi_are_counted(cluster: LocalCluster, extra: str) -> None:
    before = time.time()
    read(cluster, extra)
    execute(cluster, extra, "/bin/sh", "-c", "nvidia-smi >/dev/null")
    runs = cluster.exec_log(extra)
    assert len(runs) == 2
    assert all(before - 1 < run < time.time() + 1 for run in runs)


@pytest.mark.parametrize(
    ("behaviour", "code", "stdout", "stderr"),
    [
        ({"exit": 14, "stderr": "infoROM is corrupted"}, 14, None, "infoROM is corrupted"),
        ({"stdout": "Unable to determine\n", "exit": 15}, 15, "Unable to determine\n", ""),
        ({"delay": 0.2, "stdout": ""}, 0, "", ""),
        ({"missing": True}, 1, "", "executable file not found"),
    ],
)
def test_nvidia_smi_misbehaves_as_it_is_told(
    cluster: LocalCluster,
    extra: str,
    behaviour: dict[str, Any],
    code: int,
    stdout: str | None,
    stderr: str,
) -> None:
    cluster.set_behaviour(extra, **behaviour)
    done = execute(cluster, extra, "nvidia-smi", "-q", "-x")
    expected = cluster.smi_file(extra).read_text() if stdout is None else stdout
    assert (done.returncode, done.stdout) == (code, expected)
    assert stderr in done.stderr
    cluster.clear_behaviour(extra)
    assert read(cluster, extra) == cluster.smi_file(extra).read_text()


def test_an_unknown_behaviour_is_refused(cluster: LocalCluster) -> None:
    with pytest.raises(TypeError, match="the keys are exit"):
        cluster.set_behaviour(NODE, exti=3)


def test_restart_gives_the_container_a_new_id(cluster: LocalCluster) -> None:
    before = container_id(cluster, NODE)
    restarted = cluster.restart_plugin(NODE)
    assert restarted != before
    assert container_id(cluster, NODE) == restarted


def test_a_stopped_plugin_is_not_ready_until_it_is_started(cluster: LocalCluster) -> None:
    before = container_id(cluster, NODE)
    cluster.stop_plugin(NODE)
    jsonpath = "jsonpath={.items[*].status.containerStatuses[0].ready}"
    where = ["-n", "gpu-operator", "--field-selector", f"spec.nodeName={NODE}"]
    assert cluster.kubectl("get", "pods", *where, "-o", jsonpath).stdout == "false"
    assert cluster.start_plugin(NODE) == container_id(cluster, NODE) != before


def test_a_deleted_pod_comes_back_as_another_and_can_be_read(cluster: LocalCluster) -> None:
    before = cluster.wait_plugin(NODE)["metadata"]
    cluster.delete_pod(NODE)
    after = cluster.wait_plugin(NODE)["metadata"]
    assert before["uid"] != after["uid"] and before["name"] != after["name"]
    assert read(cluster, NODE) == cluster.smi_file(NODE).read_text()


def test_a_node_comes_and_goes_with_its_pod(cluster: LocalCluster, extra: str) -> None:
    node = json.loads(cluster.kubectl("get", "node", extra, "-o", "json").stdout)
    assert node["spec"]["providerID"].endswith("/i-0123456789abcdef0")
    cluster.delete_node(extra)
    assert extra not in cluster.node_names
    assert cluster.kubectl("get", "node", extra, check=False).returncode != 0
    pods = cluster.kubectl("get", "pods", "-A", "--field-selector", f"spec.nodeName={extra}")
    assert "No resources found" in pods.stderr


def test_a_pod_is_ready_even_if_it_is_older_than_its_node(cluster: LocalCluster) -> None:
    pods = "/api/v1/namespaces/gpu-operator/pods"
    spec = {
        "nodeName": "gpu-late",
        "automountServiceAccountToken": False,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "main", "image": "main"}],
    }
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "early"}, "spec": spec}
    cluster.client.send(Request("POST", pods, body))
    try:
        # KWOK handles the pods in order: it has seen the early one when this one is ready.
        cluster.delete_pod(NODE)
        cluster.wait_plugin(NODE)
        cluster.add_node("gpu-late")
        wait_for(
            "the early pod to run",
            lambda: cluster.client.get(f"{pods}/early")["status"]["phase"] == "Running",
            timeout=30,
        )
    finally:
        cluster.client.send(Request("DELETE", f"{pods}/early?gracePeriodSeconds=0"))
        if "gpu-late" in cluster.node_names:
            cluster.delete_node("gpu-late")


def test_the_audit_log_names_who_executed(cluster: LocalCluster, extra: str) -> None:
    read(cluster, extra)
    pod = cluster.wait_plugin(extra)["metadata"]["name"]  # others execute in the other pods

    def executed() -> list[dict[str, Any]]:
        targets = [(one, one["objectRef"]) for one in audit.events(cluster)]
        return [
            one
            for one, target in targets
            if (target.get("subresource"), target.get("name")) == ("exec", pod)
        ]

    found = wait_for("the exec in the audit log", executed, timeout=10)
    assert {one["user"]["username"] for one in found} == {"admin"}
    assert {one["stage"] for one in found} <= {"ResponseStarted", "ResponseComplete"}


def test_the_apiserver_alone_restarts(local_cluster: Callable[..., LocalCluster]) -> None:
    cluster = local_cluster(nodes=1)
    before = processes.find(Layout(cluster.directory), "etcd")
    cluster.stop_apiserver()
    assert cluster.kubectl("get", "nodes", check=False).returncode != 0
    cluster.start_apiserver()
    assert cluster.kubectl("get", "nodes").returncode == 0
    assert processes.find(Layout(cluster.directory), "etcd") == before
    assert read(cluster, "gpu-node-0000") == cluster.smi_file("gpu-node-0000").read_text()
    cluster.down()


def test_down_ends_everything_and_may_be_repeated(
    local_cluster: Callable[..., LocalCluster],
) -> None:
    cluster = local_cluster(nodes=1)
    layout = Layout(cluster.directory)
    cluster.set_behaviour("gpu-node-0000", hang=True)
    pod = cluster.wait_plugin("gpu-node-0000")["metadata"]["name"]
    kubectl = [str(cluster.kubectl_program), "--kubeconfig", str(cluster.kubeconfig)]
    hung = subprocess.Popen(
        [*kubectl, "exec", "-n", "gpu-operator", pod, "--", "nvidia-smi"],
        stderr=subprocess.DEVNULL,
    )
    wait_for("the exec to begin", lambda: cluster.exec_log("gpu-node-0000"), timeout=30)
    assert len(processes.marked(layout)) >= 7  # six servers and the hung exec
    # A crash of a part, with its pid file lost, must not keep the others alive.
    etcd = processes.find(layout, "etcd")
    assert etcd is not None
    (layout.run / "kwok.json").unlink()
    processes.end([etcd], grace=0)
    cluster.down()
    assert processes.marked(layout) == []
    assert hung.wait(timeout=30) != 0
    cluster.down()
    with pytest.raises(LocalClusterError, match="no cluster in"):
        LocalCluster.attach(cluster.directory)


def test_a_reused_pid_is_never_killed(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "cluster")
    layout.claim()
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        real = Identity.of(stranger.pid)
        assert real is not None and real.alive
        for stale in (replace(real, started=real.started - 1), replace(real, boot="another")):
            layout.run.mkdir()
            (layout.run / "etcd.json").write_text(json.dumps(asdict(stale)))
            down(layout.directory)
            assert stranger.poll() is None
    finally:
        stranger.communicate(b"\n")


def test_down_leaves_files_alone_where_no_cluster_was(tmp_path: Path) -> None:
    kept = tmp_path / "bin" / "tool"
    kept.parent.mkdir()
    kept.write_text("mine")
    down(tmp_path)
    assert kept.read_text() == "mine"
    with pytest.raises(LocalClusterError, match="holds other files"):
        LocalCluster.up(tmp_path)
    assert kept.read_text() == "mine"


def test_up_refuses_a_directory_with_a_running_cluster(cluster: LocalCluster) -> None:
    with pytest.raises(LocalClusterError, match=r"runs in .* already"):
        LocalCluster.up(cluster.directory)
    assert cluster.kubectl("get", "nodes").returncode == 0


def test_the_commands_start_use_and_end_a_cluster(tmp_path: Path) -> None:
    files = []
    for model in ("gb200", "t4"):
        files.append(tmp_path / f"{model}.xml")
        files[-1].write_text(generate(model, node="file"))
    directory = tmp_path / "cluster"
    # A pipe, read to its end: `up` must not leave it open in what it started.
    command = [sys.executable, "-c", "from gpuid_operator.cli.cluster import cluster; cluster()"]

    def run(*arguments: str | Path) -> str:
        done = subprocess.run(
            [*command, *arguments], stdout=subprocess.PIPE, text=True, check=True, timeout=120
        )
        return done.stdout

    try:
        assert "cluster down --dir" in run("up", "--dir", directory, "--smi", *files)
        attached = LocalCluster.attach(directory)
        assert attached.node_names == ["gpu-node-0000", "gpu-node-0001"]
        assert read(attached, "gpu-node-0001") == files[1].read_text()
        before = container_id(attached, "gpu-node-0000")
        run("restart-plugin", "gpu-node-0000", "--dir", directory)
        assert container_id(attached, "gpu-node-0000") != before
    finally:
        run("down", "--dir", directory)
    assert processes.marked(Layout(directory)) == []
    assert any((directory / "logs").iterdir())
