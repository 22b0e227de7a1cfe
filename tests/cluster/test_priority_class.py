"""Where a cluster limits the priority classes of the system, as GKE does.

Its API server admits a pod with such a class only where a ResourceQuota of the namespace names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuid_operator.localcluster import LocalCluster, processes
from gpuid_operator.localcluster.layout import Layout
from tests.support.manifests import DEPLOYMENT, EXAMPLES, ROOT, Manifest, find, render
from tests.support.operators import eventually

CLASSES = ["system-node-critical", "system-cluster-critical"]
ADMISSION = {
    "apiVersion": "apiserver.config.k8s.io/v1",
    "kind": "AdmissionConfiguration",
    "plugins": [
        {
            "name": "ResourceQuota",
            "configuration": {
                "apiVersion": "apiserver.config.k8s.io/v1",
                "kind": "ResourceQuotaConfiguration",
                "limitedResources": [
                    {
                        "resource": "pods",
                        "matchScopes": [
                            {"scopeName": "PriorityClass", "operator": "In", "values": CLASSES}
                        ],
                    }
                ],
            },
        }
    ],
}


@pytest.fixture(scope="module")
def limited(local_cluster: Callable[..., LocalCluster]) -> Iterator[LocalCluster]:
    start = processes.start

    def with_limits(layout: Layout, name: str, argv: list[str | Path], **options: Any) -> Any:
        if name == "kube-apiserver":
            file = layout.config / "admission.yaml"
            file.write_text(yaml.safe_dump(ADMISSION))
            argv = [*argv, f"--admission-control-config-file={file}"]
        return start(layout, name, argv, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "start", with_limits)
        cluster = local_cluster(nodes=0)
    yield cluster
    cluster.down()


def apply(cluster: LocalCluster, objects: list[Manifest]) -> None:
    for item in objects:
        item["metadata"].setdefault("namespace", "gpuid")
    items = {"apiVersion": "v1", "kind": "List", "items": objects}
    cluster.kubectl("apply", "-f", "-", input=json.dumps(items))


def pods(cluster: LocalCluster) -> int:
    label = ("-l", "app.kubernetes.io/component=operator")
    return len(cluster.kubectl("get", "pods", "-n", "gpuid", "-o", "name", *label).stdout.split())


def test_a_class_of_the_system_needs_the_quota_of_the_documentation(limited: LocalCluster) -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    (block,) = re.findall(r"```yaml\n(priorityClassName: .*?)```", page, re.DOTALL)
    values = yaml.safe_load(block)
    objects = render(values=values)
    kinds = ("ServiceAccount", "Deployment", "ResourceQuota")
    account, deployment, quota = (find(objects, kind) for kind in kinds)
    apply(limited, [account, deployment])

    def refused() -> None:
        status = limited.client.get("/apis/apps/v1/namespaces/gpuid/deployments/gpuid-operator")
        messages = [item["message"] for item in status["status"].get("conditions", ())]
        assert any("insufficient quota to match these scopes" in text for text in messages)

    eventually(refused)
    assert pods(limited) == 0
    apply(limited, [quota])
    # The ReplicaSet tries again with back-off; a restart is sooner.
    limited.kubectl("rollout", "restart", "-n", "gpuid", "deployment/gpuid-operator")

    def admitted() -> None:
        assert pods(limited) >= 2

    eventually(admitted)


def test_nothing_of_ours_asks_for_a_class_of_the_system() -> None:
    texts = {path: path.read_text() for path in (*EXAMPLES, *DEPLOYMENT.rglob("*.yaml"))}
    assert len(texts) > 30
    assert [path for path, text in texts.items() if "-critical" in text] == []
    assert "priorityClassName" not in find(render(), "Deployment")["spec"]["template"]["spec"]
