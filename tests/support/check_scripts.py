"""Checks in simulated containers: what they answer is a file of their node, and each run a line."""

from __future__ import annotations

import json
from typing import Any

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from gpuid_operator.localcluster.nodes import TARGET_LABELS
from tests.support.operators import INVENTORIES, POLICIES, status

PLUGIN = {"matchLabels": TARGET_LABELS}
"""The pods of the device plugin."""


class Probe:
    """One check; its script lives in the folders of the nodes, its command is always the same."""

    def __init__(self, cluster: LocalCluster, name: str) -> None:
        self._cluster = cluster
        self.name = name
        self.command = f"echo run >> {name}.runs\n. ./{name}.sh"

    def check(self, **fields: Any) -> dict[str, Any]:
        """The check as a policy has it."""
        return {"name": self.name, "podSelector": PLUGIN, "command": self.command, **fields}

    def answer(self, node: str, script: str) -> None:
        """From now on this is what runs on the node."""
        file = self._cluster.smi_file(node).parent / f"{self.name}.sh"
        fresh = file.with_suffix(".new")
        fresh.write_text(script)
        fresh.replace(file)

    def runs(self, node: str) -> int:
        """How often it has run on the node."""
        file = self._cluster.smi_file(node).parent / f"{self.name}.runs"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def status(self, node: str) -> dict[str, Any]:
        """What the inventory says of it; nothing is an AssertionError."""
        for check in status(self._cluster, node).get("checks", ()):
            if check["name"] == self.name:
                return dict(check)
        raise AssertionError(f"{node} has no result of {self.name}")

    def outcome(self, node: str) -> tuple[bool, int | None, str]:
        """Passed, exit code, stdout."""
        found = self.status(node)
        return found["passed"], found.get("exitCode"), found["stdout"]


def put_policy(cluster: LocalCluster, name: str, **spec: Any) -> None:
    """Apply a policy as users do."""
    body = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventoryPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(body))


def policy_condition(cluster: LocalCluster, name: str, kind: str) -> tuple[str, str, str]:
    """Status, reason and message."""
    found = cluster.client.get(f"{POLICIES}/{name}").get("status", {})
    for one in found.get("conditions", ()):
        if one["type"] == kind:
            return one["status"], one["reason"], one["message"]
    raise AssertionError(f"policy {name} has no condition {kind}")


def delete_policies(cluster: LocalCluster) -> None:
    cluster.client.send(Request("DELETE", POLICIES))


def events(cluster: LocalCluster, node: str, reason: str) -> list[str]:
    """The messages of the Events of a node's inventory, oldest first."""
    found = cluster.client.get("/api/v1/namespaces/default/events")["items"]
    mine = [
        event
        for event in found
        if (event["involvedObject"]["name"], event["reason"]) == (node, reason)
    ]
    return [event["message"] for event in sorted(mine, key=lambda one: one["firstTimestamp"])]


def managers(cluster: LocalCluster, node: str) -> dict[str, set[str]]:
    """Which fields of status.checks each field manager owns: `check.field`."""
    meta = cluster.client.get(f"{INVENTORIES}/{node}")["metadata"]
    owned: dict[str, set[str]] = {}
    for item in meta["managedFields"]:
        checks = item["fieldsV1"].get("f:status", {}).get("f:checks", {})
        for key, fields in checks.items():
            if key.startswith("k:"):
                name = json.loads(key[2:])["name"]
                owned.setdefault(item["manager"], set()).update(
                    f"{name}.{field[2:]}" for field in fields if field.startswith("f:")
                )
    return owned
