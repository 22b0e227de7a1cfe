"""The whole life of an installation on a real kubelet, with the image that the Dockerfile gives.

Pods use the network of the machine, the only one that reaches the API server here; so there is one
replica, and the namespace is not of the restricted level, which tests/cluster/test_manifests.py
shows of the same pods.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuid_operator import __version__
from gpuid_operator.cli.crds import crd_files
from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.ports import free_ports
from gpuid_operator.localcluster.smi import generate
from gpuid_operator.localcluster.waiting import wait_for
from gpuid_operator.plan.presets import expand
from gpuid_operator.plan.smi import parse
from tests.node import host_driver, operator_image
from tests.node.grants import GPUID, Calls, Grant, calls_of
from tests.node.smi_image import import_smi_image
from tests.support import audit, documented_commands
from tests.support.crds import delete_crds
from tests.support.gotools import go_tool
from tests.support.manifests import CHART, DEPLOYMENT, ROOT, render, rights

IMAGE = f"docker.io/library/gpuid-operator:{__version__}"
READER_IMAGE = f"docker.io/library/with-smi:{__version__}"
PLUGIN_IMAGE = "gpuid.local/device-plugin:install"
SMI = generate("gb200", node="real-node")
SWAPPED = generate("gb200", node="another-node")
"""What nvidia-smi prints after SMI_FILE was changed: other GPUs altogether."""
TOKEN = "the-token-nobody-may-see"

UNUSED: dict[tuple[str, str, str], str] = {
    ("", "pods/exec", "create"): "a WebSocket is a GET, which newer servers authorize as create",
    ("", "pods", "get"): "part of the published footprint; this version lists and watches",
    (
        "",
        "events",
        "patch",
    ): "part of the published footprint; this version posts each Event as a new one",
    (GPUID, "gpuinventories", "get"): "read again after a conflict of versions",
    (GPUID, "gpuinventories", "delete"): "departed nodes, after their retention",
    (GPUID, "gpuinventorypolicies", "get"): "part of the published footprint, as with pods",
    (GPUID, "gpuquarantines", "get"): "part of the published footprint, as with pods",
    ("resource.k8s.io", "resourceslices", "get"): "a resync fetches what no event brought",
    (GPUID, "gpuquarantines/status", "patch"): "an installation without a quarantine writes none",
}
"""What of the footprint an installation of a minute does not use, and why it is granted."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def installable(node_cluster: LocalCluster) -> Iterator[LocalCluster]:
    """The cluster with the operator's image and a device plugin, and without CRDs."""
    folder = Path(tempfile.mkdtemp(prefix="gpuid-image-"))
    try:
        tars = operator_image.build(folder, name=IMAGE, with_smi=READER_IMAGE, smi=SWAPPED)
        for tar in tars:
            node_cluster.import_image(tar)
        import_smi_image(
            node_cluster,
            folder,
            PLUGIN_IMAGE,
            SMI,
            script=b'#!/bin/sh\nexec cat "${SMI_FILE:-/smi.xml}"\n',
            other={"/swapped.xml": SWAPPED.encode()},
        )
    finally:
        shutil.rmtree(folder)
    apply(node_cluster, plugin(node_cluster.real_node_name))
    rollout(node_cluster, "gpu-operator", "daemonset/real-device-plugin")
    delete_crds(node_cluster)
    yield node_cluster
    node_cluster.kubectl("delete", "-n", "gpu-operator", "daemonset/real-device-plugin")
    gone = ("wait", "-n", "gpu-operator", "pod", "-l", "install=test", "--for=delete")
    node_cluster.kubectl(*gone, "--timeout=60s")
    # As the other tests know the cluster.
    apply(node_cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gpuid"}})
    for text in crd_files().values():
        node_cluster.kubectl("apply", "-f", "-", input=text)
    labels = json.loads(node_cluster.kubectl("get", "nodes", "-o", "json").stdout)["items"]
    for node in labels:
        ours = [key for key in node["metadata"]["labels"] if key.startswith(f"{GPUID}/")]
        if ours:
            removed = [f"{key}-" for key in ours]
            node_cluster.kubectl("label", "node", node["metadata"]["name"], *removed)


def plugin(node: str) -> dict[str, Any]:
    """A DaemonSet as the GPU Operator's device plugin, on the real node."""
    labels = {"app": "nvidia-device-plugin-daemonset", "install": "test"}
    container = {
        "name": "nvidia-device-plugin",
        "image": PLUGIN_IMAGE,
        "imagePullPolicy": "Never",
        "securityContext": {"runAsUser": 65532, "readOnlyRootFilesystem": True},
    }
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "hostNetwork": True,
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "real-device-plugin", "namespace": "gpu-operator"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


class Collector:
    """A web service that takes records, and keeps what came with which authorization."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.authorizations: set[str | None] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.authorizations.add(self.headers["Authorization"])
                collector.records += json.loads(body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/records"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


def apply(cluster: LocalCluster, manifest: dict[str, Any]) -> None:
    cluster.kubectl("apply", "-f", "-", input=json.dumps(manifest))


def rollout(cluster: LocalCluster, namespace: str, name: str) -> None:
    cluster.kubectl("rollout", "status", "-n", namespace, name, "--timeout=90s")


def inventory(cluster: LocalCluster) -> dict[str, Any]:
    """The status of the real node's inventory, when it is ready."""

    def ready() -> dict[str, Any] | None:
        name = cluster.real_node_name
        done = cluster.kubectl("get", "gpuinventory", name, "-o", "json", check=False)
        status = json.loads(done.stdout).get("status", {}) if done.returncode == 0 else {}
        states = {item["type"]: item["status"] for item in status.get("conditions", ())}
        return status if states.get("Ready") == "True" else None

    return wait_for("the inventory of the real node", ready, timeout=60, hint=lambda: log(cluster))


def uuids(smi: str) -> set[str | None]:
    return {gpu.uuid for gpu in parse(smi.encode()).gpus}


def check_facts(
    status: dict[str, Any], smi: str = SMI, *, container: str = "nvidia-device-plugin"
) -> None:
    """The inventory has what the nvidia-smi of the image prints."""
    gpus = parse(smi.encode()).gpus
    assert [gpu["uuid"] for gpu in status["gpus"]] == [gpu.uuid for gpu in gpus]
    assert status["serials"] == sorted({gpu.serial for gpu in gpus if gpu.serial})
    assert status["source"]["container"] == container


def check_calls(cluster: LocalCluster, account: str, granted: set[Grant], *, since: int) -> None:
    """Nothing was denied that is not said to be; every grant was used, or there is a reason for it
    above."""
    calls = calls_of(cluster, account, since=since)
    assert calls.used
    assert refused(calls) == []
    unused = {grant[1:4] for grant in calls.unused(granted)}
    assert unused <= UNUSED.keys(), "granted, not used, and no reason given"


def refused(calls: Calls) -> list[str]:
    """The calls that were denied, without the lists of pods in namespaces of presets in which the
    chart grants nothing."""
    elsewhere = {target.namespace for target in expand("auto")} - {"gpu-operator"}
    lists = tuple(f"list /api/v1/namespaces/{place}/pods?" for place in elsewhere)
    return [call for call in calls.denied if not call.startswith(lists)]


def policy(collector: Collector) -> dict[str, Any]:
    sink = {
        "name": "collector",
        "http": {
            "url": collector.url,
            "insecure": True,
            "tokenSecretRef": {"name": "collector", "key": "token"},
        },
    }
    return {
        "apiVersion": f"{GPUID}/v1alpha1",
        "kind": "GPUInventoryPolicy",
        "metadata": {"name": "fleet"},
        "spec": {"sinks": [sink]},
    }


def secret() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "collector",
            "namespace": "gpuid",
            "labels": {f"{GPUID}/sink": "true"},
        },
        "stringData": {"token": TOKEN},
    }


def check_delivery(cluster: LocalCluster, collector: Collector) -> None:
    """A policy given now takes effect without a restart: its sink gets every GPU that is there."""
    wait_for(
        "the records of the policy's sink",
        lambda: uuids(SMI) <= {item["uuid"] for item in collector.records},
        timeout=60,
    )
    assert collector.authorizations == {f"Bearer {TOKEN}"}

    def acknowledged() -> bool:
        status = inventory(cluster)
        assert status["policy"] == "fleet"
        (sink,) = status["sinks"]
        return bool(sink["deliveredSequence"] == status["sequence"])

    wait_for("the cursor of the policy's sink", acknowledged, timeout=30)


def swap(cluster: LocalCluster, collector: Collector) -> None:
    """The node gets other GPUs: the inventory, its labels, Events and the sink say so."""
    daemonset = ("-n", "gpu-operator", "daemonset/real-device-plugin")
    cluster.kubectl("set", "env", *daemonset, "SMI_FILE=/swapped.xml")
    rollout(cluster, "gpu-operator", "daemonset/real-device-plugin")

    def seen() -> bool:
        ours = [item for item in collector.records if item["node"] == cluster.real_node_name]
        removed = {item["uuid"] for item in ours if item["event"] == "GPURemoved"}
        added = {item["uuid"] for item in ours if item["event"] == "GPUAdded"}
        return removed == uuids(SMI) and added == uuids(SMI) | uuids(SWAPPED)

    wait_for("the records of the swap", seen, timeout=60, hint=lambda: log(cluster))
    check_facts(inventory(cluster), SWAPPED)
    past, present = (next(iter(sorted(filter(None, uuids(smi))))) for smi in (SMI, SWAPPED))
    for uuid, state in ((past, "past"), (present, "present")):
        found = ("get", "gpuinventory", "-o", "name", "-l", f"uuid.{GPUID}/{uuid}={state}")
        assert cluster.kubectl(*found).stdout.count("gpuinventory") == 1


def executions(cluster: LocalCluster) -> int:
    return sum(
        one["objectRef"].get("subresource") == "exec" and ":gpuid:" in str(audit.user_of(one))
        for one in audit.events(cluster)
        if "objectRef" in one
    )


@pytest.fixture
def audited(installable: LocalCluster) -> int:
    """Events of the audit log that are not of this test."""
    return len(audit.events(installable))


@pytest.fixture
def helm(installable: LocalCluster) -> Iterator[Helm]:
    helm = Helm(installable)
    yield helm
    helm("uninstall", "gpuid-operator", "--ignore-not-found", "--wait")
    await_end(installable)


def await_pods(cluster: LocalCluster, *, reader: bool = False) -> None:
    """Wait for the pods of a release. Helm waits for those that an update leaves: of a single one,
    for none."""
    rollout(cluster, "gpuid", "deployment/gpuid-operator")
    if reader:
        rollout(cluster, "gpuid", "daemonset/gpuid-operator-reader")


def await_end(cluster: LocalCluster) -> None:
    """Wait for the end of the operator's pod, which Helm does not: what it still asks for is not of
    the next test."""
    gone = ("wait", "-n", "gpuid", "pod", "-l", "app.kubernetes.io/component=operator")
    cluster.kubectl(*gone, "--for=delete", "--timeout=60s")


class Helm:
    """Helm 3 in the namespace gpuid; a call gives its output."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster

    def __call__(self, *arguments: str) -> str:
        options = ("--namespace", "gpuid", f"--kubeconfig={self._cluster.kubeconfig}")
        command = [str(go_tool("helm3")), *arguments, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}{log(self._cluster)}"
        return done.stdout


def chart_values(cluster: LocalCluster, port: int) -> dict[str, Any]:
    """What this one node asks for."""
    return {
        "replicaCount": 1,
        "hostNetwork": True,
        "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        "nodeSelector": {"kubernetes.io/hostname": cluster.real_node_name},
        "image": {"pullPolicy": "Never"},
        "port": port,
        "service": {"port": port},
    }


def check_documented(cluster: LocalCluster, port: int, folder: Path) -> None:
    """The runbooks' commands for a release that runs; one whose sink works prints nothing."""
    names = {"NAMESPACE": "gpuid", "RELEASE": "gpuid-operator", "SINK": "none", "8080": str(port)}
    every = documented_commands.commands()
    by = documented_commands.CHART
    found = [one for one in every if one.run_by == by and "NAMESPACE" in one.text]
    printed = {one.text: one.run(cluster, folder, names) for one in found}
    empty = {text for text, output in printed.items() if not output.strip()}
    assert empty == {text for text in printed if "grep" in text}
    assert len(found) >= 3


def test_the_chart(
    installable: LocalCluster, helm: Helm, collector: Collector, audited: int, tmp_path: Path
) -> None:
    cluster = installable
    (port,) = free_ports(1, host="0.0.0.0")
    values = chart_values(cluster, port)
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    release = ("gpuid-operator", str(CHART), "--values", str(file), "--wait", "--timeout=90s")
    assert "kubectl get gpuinventory" in helm("install", *release)
    await_pods(cluster)
    check_facts(inventory(cluster))
    tested = helm("test", "gpuid-operator", "--timeout=60s")
    assert "Phase:          Succeeded" in tested
    shell = ("exec", "-n", "gpuid", "deployment/gpuid-operator", "--", "/bin/sh", "-c", "true")
    assert "no such file or directory" in cluster.kubectl(*shell, check=False).stderr

    apply(cluster, secret())
    apply(cluster, policy(collector))
    check_delivery(cluster, collector)
    check_documented(cluster, port, tmp_path)

    before = executions(cluster)
    count = len(collector.records)
    helm("upgrade", *release, "--set", "clusterName=renamed")
    rollout(cluster, "gpuid", "deployment/gpuid-operator")
    wait_for("the upgraded operator to lead", lambda: leads(port), timeout=60)
    check_facts(inventory(cluster))
    # What was read and delivered is neither read nor delivered again.
    assert executions(cluster) == before
    assert len(collector.records) == count

    swap(cluster, collector)
    assert TOKEN not in log(cluster)
    check_calls(cluster, "gpuid-operator", rights(render(values=values)), since=audited)
    helm("uninstall", "gpuid-operator", "--wait", "--timeout=60s")
    await_end(cluster)
    check_facts(inventory(cluster), SWAPPED)
    # Helm takes the rights away while the pod ends, which may then not give up its lease.
    lease = "update /apis/coordination.k8s.io/v1/namespaces/gpuid/leases/gpuid-operator"
    assert set(refused(calls_of(cluster, "gpuid-operator", since=audited))) <= {lease}
    cluster.kubectl("delete", "secret", "-n", "gpuid", "collector")
    delete_crds(cluster)


def test_the_reader(installable: LocalCluster, helm: Helm, audited: int, tmp_path: Path) -> None:
    """Pods of our own read the node where there is no device plugin to read it in."""
    cluster = installable
    (port,) = free_ports(1, host="0.0.0.0")
    values = chart_values(cluster, port)
    values["image"] |= {"repository": "with-smi"}
    values["targets"] = []
    values["reader"] = {
        "enabled": True,
        "runtimeClassName": "",
        "nodeSelector": {"nvidia.com/gpu.present": None} | values["nodeSelector"],
    }
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    release = ("gpuid-operator", str(CHART), "--values", str(file), "--wait", "--timeout=90s")
    helm("install", *release)
    await_pods(cluster, reader=True)
    status = inventory(cluster)
    check_facts(status, SWAPPED, container="reader")
    assert status["source"]["namespace"] == "gpuid"
    assert calls_of(cluster, "gpuid-operator", since=audited).denied == []
    helm("uninstall", "gpuid-operator", "--wait", "--timeout=60s")
    # It ends on SIGTERM, not when it is killed.
    gone = ("wait", "-n", "gpuid", "pod", "-l", "app.kubernetes.io/component=reader")
    cluster.kubectl(*gone, "--for=delete", "--timeout=30s")
    delete_crds(cluster)


@pytest.fixture
def host(installable: LocalCluster) -> Iterator[Path]:
    """A folder of the node in which the root of a driver container and its devices may appear."""
    folder = Path(tempfile.mkdtemp(prefix="gpuid-host-"))
    folder.chmod(0o755)
    for name in ("dev", "run/nvidia/driver", "driver"):
        (folder / name).mkdir(parents=True)
    host_driver.make_devices(folder / "dev")
    yield folder
    shutil.rmtree(folder)


def in_node(cluster: LocalCluster, *command: str) -> None:
    """Run a command in the mount namespace of the real node."""
    pid = json.loads((cluster.directory / "run" / "containerd.json").read_text())["pid"]
    subprocess.run(["nsenter", f"--target={pid}", "--mount", *command], check=True)


def test_the_reader_runs_the_nvidia_smi_of_the_node(
    installable: LocalCluster, helm: Helm, host: Path, tmp_path: Path
) -> None:
    """Mode hostDriver: also where the driver appears after the pod has started."""
    cluster = installable
    (port,) = free_ports(1, host="0.0.0.0")
    values = chart_values(cluster, port)
    values["targets"] = []
    values["reader"] = {
        "enabled": True,
        "mode": "hostDriver",
        "hostDriver": {"root": str(host), "devices": str(host / "dev")},
        "nodeSelector": {"nvidia.com/gpu.present": None} | values["nodeSelector"],
    }
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    helm("install", "gpuid-operator", str(CHART), "--values", str(file), "--wait", "--timeout=90s")
    await_pods(cluster, reader=True)
    name = cluster.real_node_name

    def ready() -> dict[str, Any]:
        done = cluster.kubectl("get", "gpuinventory", name, "-o", "json", check=False)
        conditions = json.loads(done.stdout or "{}").get("status", {}).get("conditions", ())
        found: dict[str, Any] = {item["type"]: item for item in conditions}.get("Ready", {})
        return found

    def found_nothing() -> bool:
        return ready().get("reason") == "NvidiaSmiNotFound"

    wait_for("a read without a driver", found_nothing, timeout=60, hint=lambda: log(cluster))
    assert "no driver under /host" in ready()["message"]

    host_driver.install(host / "driver", SWAPPED)
    host_driver.make_control_device(host / "dev")
    in_node(cluster, "mount", "--bind", str(host / "driver"), str(host / "run/nvidia/driver"))
    cluster.kubectl("annotate", "gpuinventory", name, f"{GPUID}/requestedAt=installed")
    check_facts(inventory(cluster), SWAPPED, container="reader")
    user = ("exec", "-n", "gpuid", "daemonset/gpuid-operator-reader", "--", "python3", "-c")
    assert cluster.kubectl(*user, "import os; print(os.getuid())").stdout == "65532\n"
    helm("uninstall", "gpuid-operator", "--wait", "--timeout=60s")
    in_node(cluster, "umount", str(host / "run/nvidia/driver"))
    delete_crds(cluster)


def leads(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return "gpuid_leader 1" in answer.read().decode()
    except OSError:
        return False


def log(cluster: LocalCluster) -> str:
    """The end of the logs of the operator's pods, for the words of a failure."""
    pods = cluster.kubectl("get", "pods", "-n", "gpuid", "-o", "name").stdout.split()
    tails = [cluster.kubectl("logs", "-n", "gpuid", pod, check=False).stdout for pod in pods]
    return "".join(f"\n{pod}:\n{tail[-5000:]}" for pod, tail in zip(pods, tails, strict=True))


def test_the_kustomization(
    installable: LocalCluster, collector: Collector, audited: int, tmp_path: Path
) -> None:
    cluster = installable
    cluster.kubectl(
        "set", "env", "-n", "gpu-operator", "daemonset/real-device-plugin", "SMI_FILE=/smi.xml"
    )
    rollout(cluster, "gpu-operator", "daemonset/real-device-plugin")
    (port,) = free_ports(1, host="0.0.0.0")
    overlay(tmp_path, node=cluster.real_node_name, port=port)
    cluster.kubectl("apply", "-k", str(tmp_path))
    rollout(cluster, "gpuid", "deployment/gpuid")
    check_facts(inventory(cluster))

    def printed() -> bool:
        lines = cluster.kubectl("logs", "-n", "gpuid", "-l", "app=gpuid", "--tail=-1").stdout
        parsed = [json.loads(line) for line in lines.splitlines()]
        node = cluster.real_node_name
        said = [item["node"] for item in parsed if item["msg"] == "gpu serial number reading"]
        return node in said

    wait_for("the records in the log", printed, timeout=30)
    apply(cluster, secret())
    apply(cluster, policy(collector))
    check_delivery(cluster, collector)
    granted = rights(
        [
            item
            for item in yaml.safe_load_all(cluster.kubectl("kustomize", str(tmp_path)).stdout)
            if item
        ]
    )
    swap(cluster, collector)
    check_calls(cluster, "gpuid", granted, since=audited)
    cluster.kubectl("delete", "-k", str(tmp_path), "--wait", "--timeout=90s")
    left = cluster.kubectl("get", "namespace,crd,clusterrole", "-o", "name").stdout.split()
    assert not [name for name in left if "gpuid" in name]


@pytest.fixture
def no_device_plugin(installable: LocalCluster) -> Iterator[None]:
    """Time without the device plugin of the other tests on the real node."""
    place(installable, {"install": "nowhere"})
    gone = ("wait", "-n", "gpu-operator", "pod", "-l", "install=test", "--for=delete")
    installable.kubectl(*gone, "--timeout=60s")
    yield
    place(installable, {"install": None})
    rollout(installable, "gpu-operator", "daemonset/real-device-plugin")


def place(cluster: LocalCluster, selector: dict[str, str | None]) -> None:
    """Change the node selector of the device plugin."""
    patch = {"spec": {"template": {"spec": {"nodeSelector": selector}}}}
    daemonset = ("-n", "gpu-operator", "daemonset/real-device-plugin")
    cluster.kubectl("patch", *daemonset, "--type=merge", "-p", json.dumps(patch))


def test_the_simulated_device_plugin(
    installable: LocalCluster, no_device_plugin: None, tmp_path: Path
) -> None:
    """As README.md has it: the kustomization, the swap of a GPU, and what the history says."""
    cluster = installable
    cluster.kubectl("apply", "-k", str(DEPLOYMENT / "simulated"))
    rollout(cluster, "gpu-operator", "daemonset/simulated-device-plugin")
    # The other node has the labels of a real GPU.
    placed = "jsonpath={.items[*].spec.nodeName}"
    selected = ("-l", "app.kubernetes.io/name=simulated-device-plugin")
    pods = ("get", "pods", "-n", "gpu-operator", *selected, "-o", placed)
    assert cluster.kubectl(*pods).stdout == cluster.real_node_name
    (port,) = free_ports(1, host="0.0.0.0")
    overlay(tmp_path, node=cluster.real_node_name, port=port)
    cluster.kubectl("apply", "-k", str(tmp_path))
    rollout(cluster, "gpuid", "deployment/gpuid")
    before = inventory(cluster)
    assert len(before["serials"]) == len(before["gpus"]) == 8
    assert before["source"]["container"] == "nvidia-device-plugin"
    removed = before["gpus"][0]["serial"]

    swap = ("daemonset/simulated-device-plugin", "--", "swap-gpu", "0")
    printed = cluster.kubectl("exec", "-n", "gpu-operator", *swap).stdout
    added = printed.splitlines()[0].rpartition(" ")[2]
    assert printed.startswith(f"replaced GPU 0: serial {removed} by {added}\n")

    readme = (ROOT / "README.md").read_text().replace("\\\n", "")
    command = re.search(r"\$ kubectl (get .* kind-control-plane .*) \| tail -n 2\n", readme)
    assert command
    history = shlex.split(command[1].replace("kind-control-plane", cluster.real_node_name))

    def seen() -> bool:
        last = cluster.kubectl(*history).stdout.splitlines()[-2:]
        return last == [f"GPURemoved {removed}", f"GPUAdded {added}"]

    wait_for("the swap in the history", seen, timeout=60, hint=lambda: log(cluster))
    after = inventory(cluster)
    assert set(after["serials"]) == {*before["serials"], added} - {removed}
    assert after["source"]["containerID"] != before["source"]["containerID"]
    cluster.kubectl("delete", "-k", str(tmp_path), "--wait", "--timeout=90s")
    cluster.kubectl("delete", "-k", str(DEPLOYMENT / "simulated"), "--wait", "--timeout=90s")
    gone = ("wait", "-n", "gpu-operator", "pod", *selected, "--for=delete", "--timeout=60s")
    cluster.kubectl(*gone)


def overlay(folder: Path, *, node: str, port: int) -> None:
    """An overlay of the base for this node, written into `folder`."""
    spec = {
        "hostNetwork": True,
        "nodeSelector": {"kubernetes.io/hostname": node},
        "containers": [
            {
                "name": "gpuid",
                "imagePullPolicy": "Never",
                "env": [{"name": "SERVER_PORT", "value": str(port)}],
            }
        ],
    }
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "gpuid", "namespace": "gpuid"},
        "spec": {"template": {"spec": spec}},
    }
    replace = [
        {
            "op": "replace",
            "path": f"/spec/template/spec/containers/0/ports/0/{field}",
            "value": port,
        }
        for field in ("containerPort",)
    ]
    kustomization = {
        "resources": [os.path.relpath(DEPLOYMENT / "base", folder.resolve())],
        "patches": [
            {"patch": yaml.safe_dump(patch)},
            {"target": {"kind": "Deployment"}, "patch": yaml.safe_dump(replace)},
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
