"""The commands of the runbooks and of the other pages work as written, and print something."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuid_operator.localcluster import LocalCluster
from tests.cluster.plugin.inventories import UUID_1, at, entry, gpu, put
from tests.support.documented_commands import HERE, ROOT, commands
from tests.support.operators import eventually

NODES = ("gpu-node-0000", "gpu-node-0001")
SERIAL, OTHER = "1652785569646", "1652823054567"
NAMES = {
    "NODE": NODES[1],
    "SERIAL": SERIAL,
    "CHASSIS": "1821325191344",
    "GPU-…": UUID_1,
    "NAMESPACE": "gpuid",
    "CHECK": "grdma-override",
    "SINK": "cmdb",
}
SILENT = re.compile(r"kubectl gpuid quarantine .* > .*")
COMMANDS = [one for one in commands() if one.run_by == HERE and not one.needs]


def false(kind: str, reason: str) -> dict[str, Any]:
    words = {"type": kind, "status": "False", "reason": reason, "message": f"{kind} is not met"}
    return words | {"lastTransitionTime": at(9)}


def event(reason: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": reason.lower(), "namespace": "default"},
        "involvedObject": {"kind": "GPUInventory", "name": NODES[1]},
        "reason": reason,
        "type": "Warning",
        "message": "GPU gone",
    }


def named(kind: str, version: str, name: str, namespace: str, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def apply(cluster: LocalCluster, *objects: dict[str, Any]) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": objects}
    cluster.kubectl("apply", "-f", "-", input=json.dumps(items))


@pytest.fixture(scope="module")
def troubled(local_cluster: Callable[..., LocalCluster]) -> Iterator[LocalCluster]:
    """A cluster that has every trouble which the runbooks look at, and no operator."""
    cluster = local_cluster(nodes=0)
    for name in NODES:
        cluster.add_node(name)
    one = gpu(UUID_1, SERIAL, chassisSerial=NAMES["CHASSIS"])
    other = gpu("GPU-77ee04bd-0000-0a2d-f989-a9228a03f373", OTHER)
    put(cluster, NODES[0], history=[entry(1, "GPUAdded", one), entry(5, "GPURemoved", one)])
    put(
        cluster,
        NODES[1],
        gpus=[one, other],
        history=[
            entry(6, "GPUAdded", other),
            entry(7, "GPUAdded", one),
            entry(8, "Dropped", None, message="GPUAdded: 2"),
        ],
        sinks=[{"name": "cmdb", "type": "http", "pending": 1, "lastError": "Unavailable: 503"}],
        checks=[{"name": "grdma-override", "passed": False, "exitCode": 1, "stdout": "0"}],
        conditions=[
            false("Ready", "TimedOut"),
            false("Healthy", "GPUUnhealthy"),
            false("Delivered", "Unavailable"),
            false("ChecksPassed", "ChecksFailed"),
            false("AsExpected", "TooFewGPUs"),
            false("Unique", "SeenElsewhere"),
        ],
    )
    kinds = "gpuid.github.com/v1alpha1"
    selector = {"nodeSelector": {"matchLabels": {"a": "b"}}}
    policies = [
        {"apiVersion": kinds, "kind": "GPUInventoryPolicy", "metadata": {"name": name}}
        | {"spec": selector}
        for name in ("fleet", "lab")
    ]
    parts = (ROOT / "docs" / "parts.md").read_text()
    (quarantine,) = re.findall(r"```yaml\n(apiVersion.*?name: rma-48213\n.*?)```", parts, re.DOTALL)
    apply(cluster, *policies, yaml.safe_load(quarantine), event("GPULost"), event("GPURemoved"))
    status = json.dumps({"status": {"conditions": [false("Ready", "InForce")]}})
    patch = ("patch", "gpupol", "lab", "--subresource=status", "--type=merge", "-p", status)
    cluster.kubectl(*patch)
    yield cluster
    cluster.down()


def prepare(cluster: LocalCluster, folder: Path) -> None:
    """What a page may delete."""
    (folder / "fleet" / "gpuid" / "quarantines").mkdir(parents=True)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gpuid"}}
    pod = {"containers": [{"name": "operator", "image": "operator"}], "nodeName": NODES[0]}
    config = {".dockerconfigjson": json.dumps({"auths": {}})}
    kind = "kubernetes.io/dockerconfigjson"
    apply(
        cluster,
        namespace,
        named("Lease", "coordination.k8s.io/v1", "gpuid-operator", "gpuid"),
        named("Secret", "v1", "registry", "default", type=kind, stringData=config),
    )
    account = ("get", "serviceaccount", "-n", "gpuid", "default")

    def exists() -> None:
        assert cluster.kubectl(*account, check=False).returncode == 0

    eventually(exists)
    apply(cluster, named("Pod", "v1", "gpuid-operator", "gpuid", spec=pod))
    cluster.kubectl("label", "node", NODES[1], "gpuid.github.com/gpu-0=1", "--overwrite")
    cluster.kubectl("uncordon", NODES[1])
    taint = "gpuid.github.com/quarantined=rma-48213:NoSchedule"
    cluster.kubectl("taint", "nodes", NODES[1], taint, "--overwrite")


@pytest.mark.parametrize("page", dict.fromkeys(command.page for command in COMMANDS))
def test_every_command_of_the_page_works(troubled: LocalCluster, page: str, tmp_path: Path) -> None:
    prepare(troubled, tmp_path)
    for command in [one for one in COMMANDS if one.page == page]:
        if command.text == "kubectl create namespace gpuid":
            troubled.kubectl("delete", "namespace", "gpuid")
        printed = command.run(troubled, tmp_path, NAMES)
        assert printed.strip() or SILENT.fullmatch(command.text), command
