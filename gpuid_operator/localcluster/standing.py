"""Nodes and pods of a cluster without controllers: their statuses are written once, and stay.

With controllers, KWOK and the DaemonSet make them so.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
from typing import Any, Final

from gpuid_operator.localcluster.nodes import TARGET_NAMESPACE, device_plugin

_CONDITIONS: Final = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")


def ready_node(body: dict[str, Any], *, kubelet_port: int) -> dict[str, Any]:
    """The Node with the status that a kubelet at this port of the machine writes."""
    now = _now()
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    body["status"] |= {
        "conditions": [ready | {"lastHeartbeatTime": now, "lastTransitionTime": now}],
        "addresses": [
            {"address": "127.0.0.1", "type": "InternalIP"},
            {"address": body["metadata"]["name"], "type": "Hostname"},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port}},
    }
    return body


def target_pod(node: str) -> dict[str, Any]:
    """The pod of the device plugin that its DaemonSet would make for the node."""
    template = device_plugin()["spec"]["template"]
    digest = hashlib.sha256(node.encode()).hexdigest()
    # Without a controller nobody removes the pod but us.
    name = f"nvidia-device-plugin-daemonset-{digest[:8]}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": template["metadata"] | {"name": name, "namespace": TARGET_NAMESPACE},
        "spec": {key: template["spec"][key] for key in template["spec"] if key != "nodeSelector"}
        | {"nodeName": node},
    }


def running(pod: dict[str, Any]) -> dict[str, Any]:
    """The status of a pod whose containers run and are ready."""
    now = _now()
    return {
        "phase": "Running",
        "startTime": now,
        "hostIP": "127.0.0.1",
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": now} for kind in _CONDITIONS
        ],
        "containerStatuses": [
            {
                "name": container["name"],
                "containerID": f"containerd://{secrets.token_hex(32)}",
                "image": container["image"],
                "imageID": f"{container['image']}@sha256:{secrets.token_hex(32)}",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for container in pod["spec"]["containers"]
        ],
    }


def service_account() -> dict[str, Any]:
    """The account of the pods, which the API server requires."""
    metadata = {"name": "default", "namespace": TARGET_NAMESPACE}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
