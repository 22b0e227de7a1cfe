"""The simulated nodes of a running cluster: their objects, their pods, their files."""

from __future__ import annotations

import copy
import datetime
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from gpuid_operator.localcluster import controlplane, hardware, nodes, processes, standing
from gpuid_operator.localcluster.binaries import Binaries
from gpuid_operator.localcluster.client import MERGE, ApiClient, Request
from gpuid_operator.localcluster.errors import LocalClusterError, ServerError
from gpuid_operator.localcluster.hardware import Hardware
from gpuid_operator.localcluster.layout import Layout, State, write_atomically
from gpuid_operator.localcluster.waiting import wait_for

_PODS: Final = f"/api/v1/namespaces/{nodes.TARGET_NAMESPACE}/pods"
_DAEMONSETS: Final = f"/apis/apps/v1/namespaces/{nodes.TARGET_NAMESPACE}/daemonsets"
_POD_WITHIN: Final = 60.0


@dataclass(frozen=True)
class NodeSpec:
    """A node to create; `xml` is its hardware."""

    name: str
    xml: bytes
    instance_type: str
    provider_id: str | None = None
    labels: Mapping[str, str] | None = None


class Simulation:
    """Creates and changes simulated nodes through the API server and the cluster's directory."""

    def __init__(self, *, layout: Layout, state: State, client: ApiClient) -> None:
        self._layout = layout
        self._state = state
        self._client = client

    def start(self, binaries: Binaries) -> None:
        """Start the kubelet port of the simulated nodes and, with controllers, KWOK."""
        layout, state = self._layout, self._state
        hardware.install_program(layout)
        layout.nodes.mkdir(exist_ok=True)
        if state.controllers:
            self._start_kwok(binaries)
        processes.start(
            layout,
            "simnode",
            [
                binaries["simnode"],
                f"--listen=127.0.0.1:{state.simnode_port}",
                f"--server={state.server}",
                f"--token-file={controlplane.token_file(layout, 'simnode')}",
                f"--pki={layout.pki}",
                f"--nodes={layout.nodes}",
                f"--marker={layout.marker}",
            ],
            path=f"{layout.bin}:{processes.caller_path()}",
        )

    def _start_kwok(self, binaries: Binaries) -> None:
        layout, state = self._layout, self._state
        config = layout.config / "kwok.yaml"
        source = files("gpuid_operator.localcluster") / "kwok.yaml"
        write_atomically(config, source.read_bytes())
        [(key, value)] = nodes.SIMULATED.items()
        processes.start(
            layout,
            "kwok",
            [
                binaries["kwok"],
                f"--config={config}",
                f"--kubeconfig={controlplane.kubeconfig(layout, 'kwok')}",
                "--manage-all-nodes=false",
                f"--manage-nodes-with-label-selector={key}={value}",
                "--node-ip=127.0.0.1",
                f"--node-port={state.simnode_port}",
                f"--server-address=127.0.0.1:{state.kwok_port}",
            ],
            environment={"KWOK_WORKDIR": str(layout.config / "kwok")},
        )

    def create_device_plugin(self) -> None:
        """Create the DaemonSet, once its namespace can have pods."""
        account = f"/api/v1/namespaces/{nodes.TARGET_NAMESPACE}/serviceaccounts/default"
        self._wait(
            "the service account of the device plugin's pods",
            lambda: self._client.send(Request("GET", account, tolerate=(404,))),
        )
        self._client.send(Request("POST", _DAEMONSETS, nodes.device_plugin()))

    def create(self, specs: Iterable[NodeSpec]) -> None:
        """Write the hardware of these nodes and create their Node objects, many at a time."""

        def requests() -> Iterable[Request]:
            for spec in specs:
                Hardware(self._layout, spec.name).write_smi(spec.xml)
                gpus, product = hardware.describe(spec.xml)
                body = nodes.node(
                    spec.name,
                    gpus=gpus,
                    product=product,
                    instance_type=spec.instance_type,
                    provider_id=spec.provider_id,
                    labels=spec.labels or {},
                    object_bytes=self._state.node_object_bytes,
                )
                if not self._state.controllers:
                    standing.ready_node(body, kubelet_port=self._state.simnode_port)
                yield Request("POST", "/api/v1/nodes", body)
                names.append(spec.name)

        names: list[str] = []
        self._client.send_all(requests())
        if not self._state.controllers:
            pods = [standing.target_pod(name) for name in names]
            self._client.send_all(Request("POST", _PODS, pod) for pod in pods)
            self._client.send_all(
                Request(
                    "PATCH",
                    f"{_PODS}/{pod['metadata']['name']}/status",
                    {"status": standing.running(pod)},
                    content_type=MERGE,
                )
                for pod in pods
            )

    def wait_ready(self, count: int) -> None:
        """Wait until this many simulated nodes are Ready and have a ready target pod."""

        def pods_ready() -> bool:
            status = self._client.get(f"{_DAEMONSETS}/nvidia-device-plugin-daemonset")["status"]
            wanted = status.get("desiredNumberScheduled", 0)
            return bool(wanted == count and status.get("numberReady", 0) == count)

        def nodes_ready() -> bool:
            [(key, value)] = nodes.SIMULATED.items()
            items = self._client.get("/api/v1/nodes", labelSelector=f"{key}={value}")["items"]
            return sum(map(_is_ready, items)) == count

        within = _POD_WITHIN + count * 0.2
        self._wait(f"{count} pods of the device plugin", pods_ready, timeout=within, interval=0.2)
        self._wait(f"{count} nodes to be Ready", nodes_ready, timeout=within, interval=0.5)

    def wait_pod(self, node: str) -> dict[str, Any]:
        """The node's target pod, once it is ready and not being deleted."""
        pod: dict[str, Any] = self._wait(
            f"a ready pod of the device plugin on {node}",
            lambda: next((pod for pod in self._pods(node) if _is_ready(pod)), None),
        )
        return pod

    def restart_container(self, node: str) -> str:
        """Give the target container a new id, as a restart would; returns the id."""
        self.wait_pod(node)
        return self._set_container(node, running=True)

    def stop_container(self, node: str) -> None:
        """Crash the target container, which stays down."""
        self._set_container(node, running=False)

    def start_container(self, node: str) -> str:
        """Start the target container; return its new id."""
        return self._set_container(node, running=True)

    def delete(self, node: str) -> None:
        """Delete the node with its pod and its hardware, as when a VM is terminated."""
        self._client.send(Request("DELETE", f"/api/v1/nodes/{node}"))

        def gone() -> bool:
            pods = self._pods(node, deleting=True)
            # The node has no kubelet any more, and the pod garbage collector takes minutes.
            for pod in pods:
                path = f"{_PODS}/{pod['metadata']['name']}?gracePeriodSeconds=0"
                self._client.send(Request("DELETE", path, tolerate=(404,)))
            return not pods

        self._wait(f"the pods of {node} to go", gone)
        Hardware(self._layout, node).remove()

    def delete_pod(self, node: str) -> None:
        """Delete the target pod; returns when it is gone. Its DaemonSet makes another."""
        if not self._state.controllers:
            raise LocalClusterError(
                f"failed to delete the target pod of node {node}: without controllers, nothing"
                " would make another; start a cluster with controllers"
            )
        pods = self._pods(node)
        if not pods:
            raise LocalClusterError(f"failed to delete the target pod of node {node}: it has none")
        for pod in pods:
            path = f"{_PODS}/{pod['metadata']['name']}"
            self._client.send(Request("DELETE", path, tolerate=(404,)))
        uids = {pod["metadata"]["uid"] for pod in pods}
        self._wait(
            f"the pod of {node} to go",
            lambda: not uids & {p["metadata"]["uid"] for p in self._pods(node, deleting=True)},
        )

    def _pods(self, node: str, *, deleting: bool = False) -> list[dict[str, Any]]:
        [(key, value)] = nodes.TARGET_LABELS.items()
        found = self._client.get(
            _PODS, labelSelector=f"{key}={value}", fieldSelector=f"spec.nodeName={node}"
        )
        pods: list[dict[str, Any]] = found["items"]
        return [pod for pod in pods if deleting or "deletionTimestamp" not in pod["metadata"]]

    def _set_container(self, node: str, *, running: bool) -> str:
        """Write the status of the container, as a kubelet does; return the id in the response."""
        pods = self._pods(node)
        if not pods:
            raise LocalClusterError(
                f"failed to change the target container of node {node}: it has no target pod"
            )
        pod = pods[0]
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = copy.deepcopy(pod["status"])
        for container in status["containerStatuses"]:
            if container["name"] != nodes.TARGET_CONTAINER:
                continue
            previous = container["containerID"]
            ended = {"containerID": previous, "exitCode": 137, "reason": "Error", "finishedAt": now}
            container["ready"] = container["started"] = running
            container["lastState"] = {"terminated": ended}
            if running:
                container["containerID"] = f"containerd://{secrets.token_hex(32)}"
                container["restartCount"] += 1
                container["state"] = {"running": {"startedAt": now}}
            else:
                container["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
        for condition in status["conditions"]:
            if condition["type"] in ("Ready", "ContainersReady"):
                condition |= {"status": str(running), "lastTransitionTime": now}
        patch = {key: status[key] for key in ("containerStatuses", "conditions")}
        path = f"{_PODS}/{pod['metadata']['name']}/status"
        answer = self._client.send(Request("PATCH", path, {"status": patch}, content_type=MERGE))
        return next(
            str(container["containerID"])
            for container in answer["status"]["containerStatuses"]
            if container["name"] == nodes.TARGET_CONTAINER
        )

    @property
    def _programs(self) -> tuple[str, ...]:
        return ("kwok", "simnode") if self._state.controllers else ("simnode",)

    def _wait(
        self,
        what: str,
        condition: Callable[[], Any],
        *,
        timeout: float = _POD_WITHIN,
        interval: float = 0.1,
    ) -> Any:
        def alive_and_true() -> Any:
            for name in self._programs:
                if not processes.is_running(self._layout, name):
                    tail = controlplane.log_tail(self._layout, name)
                    raise ServerError(f"failed to wait for {what}: {name} has ended. {tail}")
            return condition()

        return wait_for(
            what,
            alive_and_true,
            timeout=timeout,
            interval=interval,
            hint=lambda: controlplane.log_tail(self._layout, self._programs[0]),
        )


def _is_ready(item: dict[str, Any]) -> bool:
    """Whether a Node or a Pod says that it is ready."""
    conditions = item.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
