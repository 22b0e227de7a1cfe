"""Restarts of target containers, one or all of them at once."""

from __future__ import annotations

import copy
import secrets
from datetime import UTC, datetime
from typing import Any

from gpuid_operator.localcluster.client import MERGE, Request
from gpuid_operator.localcluster.nodes import TARGET_CONTAINER, TARGET_NAMESPACE

PODS = f"/api/v1/namespaces/{TARGET_NAMESPACE}/pods"


def restart(pod: dict[str, Any]) -> Request:
    """The write of a kubelet whose target container runs again under a new id.

    `LocalCluster.restart_plugin` does the same, but it looks for the pod first, and that would be
    in the measured time.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    containers = copy.deepcopy(pod["status"]["containerStatuses"])
    for one in containers:
        if one["name"] == TARGET_CONTAINER:
            ended = {"exitCode": 137, "reason": "Error", "finishedAt": now}
            one["lastState"] = {"terminated": ended | {"containerID": one["containerID"]}}
            one["containerID"] = f"containerd://{secrets.token_hex(32)}"
            one["restartCount"] += 1
            one["state"] = {"running": {"startedAt": now}}
    path = f"{PODS}/{pod['metadata']['name']}/status"
    body = {"status": {"containerStatuses": containers}}
    return Request("PATCH", path, body, content_type=MERGE)
