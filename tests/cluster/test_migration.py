"""docs/migrating-from-gpuid.md, with a stand-in for gpuid: it holds its lease, and has labelled the
node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from tests.support.operators import INVENTORIES, Operator, eventually, read_well
from tests.support.smi_fixtures import machine, serials

NODE = "gpu-migrating"
GPUID = "gpuid-7d9c_0b6e6c5e-5d3a-4c1b-9a53-7b5a4c0f3f5e"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/gpuid/leases"
ENVIRONMENT: dict[str, Any] = {
    "LEADER_ELECTION": "true",
    "LEASE_NAMESPACE": "gpuid",
    "LEASE_NAME": "gpuid-leader",
    "LEASE_RETRY_PERIOD": "500ms",
    "POD_NAME": "gpuid-operator",
    "POD_NAMESPACE": "gpuid",
    "CLUSTER_NAME": "prod",
}


def lease(cluster: LocalCluster, holder: str, *, method: str = "PATCH") -> None:
    """What client-go writes; a released lease has no holder and a duration of one second."""
    spec: dict[str, Any] = {"holderIdentity": holder, "leaseDurationSeconds": 3600 if holder else 1}
    spec |= dict.fromkeys(("acquireTime", "renewTime"), "2026-06-07T10:00:00.000000Z")
    body: dict[str, Any] = {"metadata": {"name": "gpuid-leader"}, "spec": spec}
    if method == "POST":
        body |= {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        cluster.client.send(Request("POST", LEASES, body))
    else:
        path = f"{LEASES}/gpuid-leader"
        cluster.client.send(Request("PATCH", path, body, content_type=MERGE))


def holder(cluster: LocalCluster) -> str:
    found = cluster.client.send(Request("GET", f"{LEASES}/gpuid-leader"))
    return str(found["spec"].get("holderIdentity") or "")


@contextmanager
def watched(cluster: LocalCluster, file: Path) -> Iterator[None]:
    """Every version of the node goes to the file."""
    command = [str(cluster.kubectl_program), f"--kubeconfig={cluster.kubeconfig}"]
    command += ["get", "node", NODE, "-o", "json", "--watch"]
    with file.open("w") as out, subprocess.Popen(command, stdout=out) as watch:
        try:
            eventually(lambda: versions(file)[0])
            yield
        finally:
            watch.terminate()


def versions(file: Path) -> list[dict[str, Any]]:
    """The whole documents in the file."""
    text = file.read_text().strip()
    found: list[dict[str, Any]] = []
    while text:
        try:
            one, end = json.JSONDecoder().raw_decode(text)
        except json.JSONDecodeError:
            break
        found.append(one)
        text = text[end:].lstrip()
    return found


def test_over_and_back_with_one_lease(fleet: LocalCluster, tmp_path: Path) -> None:
    xml = machine(NODE, gpus=4)
    labels = {
        f"gpuid.github.com/gpu-{index}": serial for index, serial in enumerate(sorted(serials(xml)))
    }
    fleet.add_node(NODE, xml=xml, labels=labels)
    lease(fleet, GPUID, method="POST")
    file = tmp_path / "node"
    with watched(fleet, file), Operator(fleet, **ENVIRONMENT) as operator:
        assert operator.get("/readyz") == (200, "standing by\n")

        def said() -> str:
            leaders = [line["leader"] for line in operator.lines() if line["msg"] == "standing by"]
            assert leaders
            return str(leaders[0])

        # The process is ready before it has tried to get the lease.
        assert eventually(said) == GPUID

        def warned() -> None:
            shared = "lease is shared with another program, such as gpuid"
            warnings = [line for line in operator.lines() if shared in line["msg"]]
            found = [(line["level"], line["lease"], line["leader"]) for line in warnings]
            assert found == [("WARN", "gpuid/gpuid-leader", GPUID)]

        eventually(warned)
        assert fleet.client.send(Request("GET", INVENTORIES))["items"] == []

        lease(fleet, "")
        eventually(lambda: read_well(fleet, NODE))

        def exported() -> None:
            records = operator.records()
            assert {record["gpu"] for record in records} == set(serials(xml))
            assert {record["cluster"] for record in records} == {"prod"}

        eventually(exported)
        assert holder(fleet).startswith("gpuid-operator_")
        operator.terminate()
        assert holder(fleet) == ""  # gpuid can lead at once
        fleet.client.send(
            Request(
                "PATCH",
                f"/api/v1/nodes/{NODE}",
                {"metadata": {"labels": {"last": "version"}}},
                content_type=MERGE,
            )
        )

        def last() -> None:
            assert "last" in versions(file)[-1]["metadata"]["labels"]

        eventually(last)
    for version in versions(file):
        assert labels.items() <= version["metadata"]["labels"].items()
    (left,) = fleet.client.send(Request("GET", INVENTORIES))["items"]
    assert set(left["status"]["serials"]) == set(serials(xml))
