"""A local cluster: real control plane, simulated GPU nodes, and perhaps one real node.

cluster = LocalCluster.up(Path("/tmp/c"), nodes=3)
cluster.kubectl("get", "nodes")
cluster.write_smi("gpu-node-0000", generate("h100", node="another"))
cluster.restart_plugin("gpu-node-0000")
cluster.down()
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from gpuid_operator.localcluster import binaries as programs
from gpuid_operator.localcluster import controlplane, lifecycle
from gpuid_operator.localcluster.binaries import Binaries, Progress
from gpuid_operator.localcluster.client import ApiClient
from gpuid_operator.localcluster.controlplane import ControlPlane
from gpuid_operator.localcluster.errors import LocalClusterError
from gpuid_operator.localcluster.hardware import Hardware
from gpuid_operator.localcluster.layout import Layout, State
from gpuid_operator.localcluster.realnode import RealNode
from gpuid_operator.localcluster.simulation import NodeSpec, Simulation
from gpuid_operator.localcluster.smi import generate
from gpuid_operator.localcluster.smi_models import MODELS

_NO_WEBSOCKETS: Final = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false"}
"""For `kubectl exec`. Over a WebSocket it loses output that comes before it has created the stream
("Unknown stream id 1, discarding message"): 6 of 800 commands that end at once, on two cores; none
of 800 over SPDY, and none of 4,000 in the operator's own exec."""


class LocalCluster:
    """One cluster, known by its directory. Made by `up` or `attach`."""

    def __init__(self, *, layout: Layout, state: State) -> None:
        self._layout = layout
        self._state = state

    @classmethod
    def up(
        cls,
        directory: Path,
        *,
        nodes: int | None = None,
        gpu: str = "h100",
        smi: Sequence[Path] = (),
        real_node: bool = False,
        node_object_bytes: int | None = None,
        controllers: bool = True,
        progress: Progress = lambda _: None,
    ) -> LocalCluster:
        """Start a cluster under `directory`; returns when its nodes and their pods are ready.

        It runs until `down`, beyond the end of the calling process. With `smi`, the simulated nodes
        get copies of these files in turn, one node per file unless `nodes` says otherwise; else
        each has generated GPUs of the model `gpu`. `node_object_bytes` is the size to which Node
        objects are filled. Without `controllers`, the API server runs alone: nodes and target pods
        are there, and nothing replaces a pod, schedules one or deletes what a deleted object owns.
        Raises LocalClusterError, having ended what it started.
        """
        layout, state = lifecycle.start(
            directory,
            nodes=nodes,
            gpu=gpu,
            smi=smi,
            real_node=real_node,
            node_object_bytes=node_object_bytes,
            controllers=controllers,
            progress=progress,
        )
        return cls(layout=layout, state=state)

    @classmethod
    def attach(cls, directory: Path) -> LocalCluster:
        """The cluster that an earlier `up` left running under `directory`."""
        layout = Layout(directory.resolve())
        try:
            return cls(layout=layout, state=State.load(layout))
        except FileNotFoundError:
            raise LocalClusterError(
                f"no cluster in {layout.directory}: start one with "
                f"'gpuid-operator cluster up --dir {layout.directory}'"
            ) from None

    @property
    def directory(self) -> Path:
        return self._layout.directory

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of the administrator; it contains `.token` and `.ca_file`."""
        return self._layout.kubeconfig

    @property
    def server(self) -> str:
        return self._state.server

    @property
    def token(self) -> str:
        return controlplane.token_file(self._layout, controlplane.ADMIN).read_text()

    @property
    def ca_file(self) -> Path:
        return self._layout.ca_file

    @property
    def audit_log(self) -> Path:
        """JSON lines at level Metadata: our group, nodes, pods/exec, events, leases, secrets, and
        all requests of the service accounts in the namespace gpuid.

        The user of `.kubeconfig` is `admin`; the servers have other names.
        """
        return self._layout.audit_log

    @property
    def node_names(self) -> list[str]:
        """The simulated nodes, sorted."""
        folder = self._layout.nodes
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    @cached_property
    def client(self) -> ApiClient:
        """A plain client of the API server, as the administrator."""
        return controlplane.client_for(self._layout, self._state)

    def down(self) -> None:
        """End every process of the cluster. Does nothing if none runs.

        The logs, the audit log and the files of the nodes stay.
        """
        lifecycle.down(self.directory)

    def stop_apiserver(self) -> None:
        """End the API server alone, at once, as a crash would."""
        self._controlplane.stop_apiserver()

    def start_apiserver(self) -> None:
        """Start the API server again; returns when it is ready."""
        self._controlplane.start_apiserver()

    def add_node(
        self,
        name: str,
        *,
        xml: str | bytes | None = None,
        provider_id: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Create a simulated node; returns when its target pod is ready.

        Without `xml` its GPUs are generated, the same for the same name.
        """
        content = generate(self._state.gpu, node=name) if xml is None else xml
        spec = NodeSpec(
            name=name,
            xml=content.encode() if isinstance(content, str) else content,
            instance_type=MODELS[self._state.gpu].instance_type,
            provider_id=provider_id,
            labels=labels,
        )
        self._simulation.create([spec])
        self._simulation.wait_pod(name)

    def delete_node(self, name: str) -> None:
        """Remove a simulated node with its pod and its files; returns when they are gone."""
        self._simulation.delete(self._known(name))

    def delete_pod(self, node: str) -> None:
        """Delete the node's target pod; returns when it is gone. Its DaemonSet makes another."""
        self._simulation.delete_pod(self._known(node))

    def wait_plugin(self, node: str) -> dict[str, Any]:
        """Wait for a ready target pod on the node, and return it."""
        return self._simulation.wait_pod(self._known(node))

    def restart_plugin(self, node: str) -> str:
        """Give the node's target container a new id; returns it once the pod's status shows it."""
        return self._simulation.restart_container(self._known(node))

    def stop_plugin(self, node: str) -> None:
        """The target container crashes: not ready, until `start_plugin`."""
        self._simulation.stop_container(self._known(node))

    def start_plugin(self, node: str) -> str:
        """The target container runs again, under a new id, which is returned."""
        return self._simulation.start_container(self._known(node))

    def smi_file(self, node: str) -> Path:
        """The output of nvidia-smi on the node; read at each run."""
        return Hardware(self._layout, self._known(node)).smi_file

    def write_smi(self, node: str, xml: str | bytes) -> None:
        """Replace the node's hardware at once: no reader sees a part of it."""
        Hardware(self._layout, self._known(node)).write_smi(xml)

    def set_behaviour(self, node: str, **behaviour: object) -> None:
        """Make the node's nvidia-smi misbehave: exit, stdout, stderr, delay, hang, missing.

        `stdout` stands in place of the XML; bytes that are not UTF-8 are given as surrogates.
        `delay` is in seconds. `hang` never ends. `missing`: the container has no nvidia-smi.
        """
        Hardware(self._layout, self._known(node)).set_behaviour(**behaviour)

    def clear_behaviour(self, node: str) -> None:
        Hardware(self._layout, self._known(node)).clear_behaviour()

    def exec_log(self, node: str) -> list[float]:
        """When the node's nvidia-smi was run (seconds since the epoch), oldest first."""
        return Hardware(self._layout, self._known(node)).runs()

    @property
    def real_node_name(self) -> str:
        """Name of the real node, also the value of its label kubernetes.io/hostname."""
        if self._state.real_node is None:
            raise LocalClusterError(
                f"the cluster in {self.directory} has no real node; start it with --real-node"
            )
        return self._state.real_node

    def import_image(self, tar: Path) -> None:
        """Import an image (of `images.build_image` or `docker save`) into the real node; pods
        use it with `imagePullPolicy: Never`."""
        self._real_node.import_image(tar)

    @property
    def kubectl_program(self) -> Path:
        """The kubectl of this machine, else the one that was built."""
        return self._binaries["kubectl"]

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator; with `check`, a failure is a LocalClusterError."""
        command = [str(self.kubectl_program), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(
            command,
            input=input,
            env=os.environ | _NO_WEBSOCKETS,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise LocalClusterError(
                f"failed to run '{' '.join(command)}': exit code {done.returncode}:"
                f" {done.stderr.strip()}"
            )
        return done

    @cached_property
    def _binaries(self) -> Binaries:
        return programs.resolve(
            real_node=self._state.real_node is not None,
            controllers=self._state.controllers,
            progress=lambda _: None,
        )

    @property
    def _controlplane(self) -> ControlPlane:
        return ControlPlane(layout=self._layout, state=self._state, binaries=self._binaries)

    @property
    def _simulation(self) -> Simulation:
        return Simulation(layout=self._layout, state=self._state, client=self.client)

    @property
    def _real_node(self) -> RealNode:
        return RealNode(layout=self._layout, client=self.client)

    def _known(self, node: str) -> str:
        if node not in self.node_names:
            raise LocalClusterError(
                f"{node} is not a simulated node of the cluster in {self.directory}; these are: "
                f"{', '.join(self.node_names) or 'none'}"
            )
        return node
