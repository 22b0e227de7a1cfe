"""The start and the end of a cluster."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from gpuid_operator.api.crd import crd_manifests
from gpuid_operator.localcluster import binaries as programs
from gpuid_operator.localcluster import controlplane, processes, realnode, standing
from gpuid_operator.localcluster import nodes as objects
from gpuid_operator.localcluster.binaries import Binaries, Progress
from gpuid_operator.localcluster.client import ApiClient, Request
from gpuid_operator.localcluster.controlplane import ControlPlane
from gpuid_operator.localcluster.errors import LocalClusterError
from gpuid_operator.localcluster.layout import Layout, State
from gpuid_operator.localcluster.ports import free_ports
from gpuid_operator.localcluster.realnode import RealNode
from gpuid_operator.localcluster.simulation import NodeSpec, Simulation
from gpuid_operator.localcluster.smi import generate
from gpuid_operator.localcluster.smi_models import MODELS
from gpuid_operator.localcluster.waiting import wait_for

DEFAULT_NODES: Final = 3
_ACCOUNTS: Final = f"/api/v1/namespaces/{objects.TARGET_NAMESPACE}/serviceaccounts"
_CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def start(
    directory: Path,
    *,
    nodes: int | None,
    gpu: str,
    smi: Sequence[Path],
    real_node: bool,
    node_object_bytes: int | None,
    controllers: bool,
    progress: Progress,
) -> tuple[Layout, State]:
    """Start a cluster, as `LocalCluster.up` documents. A failure leaves nothing running."""
    layout = Layout(directory.resolve())
    if gpu not in MODELS:
        raise LocalClusterError(f"GPU model {gpu!r} is not one of {', '.join(MODELS)}")
    outputs = [path.read_bytes() for path in smi]
    count = len(outputs) or DEFAULT_NODES if nodes is None else nodes
    if processes.running(layout):
        raise LocalClusterError(
            f"a cluster runs in {layout.directory} already; stop it with 'gpuid-operator cluster "
            f"down --dir {layout.directory}' or use another directory"
        )
    if real_node:
        if not controllers:
            raise LocalClusterError("a real node needs the controllers: its pods have a DaemonSet")
        realnode.check()
    layout.claim()
    _clear(layout)
    binaries = programs.resolve(real_node=real_node, controllers=controllers, progress=progress)
    state = _state(
        gpu=gpu,
        real_node=real_node,
        node_object_bytes=node_object_bytes,
        controllers=controllers,
    )
    try:
        _start(layout, state, binaries, _specs(count, gpu, outputs), count, progress)
    except BaseException:  # also after Ctrl-C
        down(layout.directory)
        raise
    return layout, state


def down(directory: Path) -> None:
    """End what `up` started under `directory`, also after a crash of any part of it.

    Ends only processes that the files of the directory or their own environment name. Repeated
    calls and a directory without a cluster are harmless.
    """
    layout = Layout(directory.resolve())
    # The data are deleted, so no process needs to shut down gracefully.
    processes.stop(layout, processes.running(layout), grace=0)
    processes.end_marked(layout)
    realnode.end(layout)
    if not layout.ours:
        return
    for path in (layout.etcd, layout.pki, layout.config, layout.bin, layout.run):
        shutil.rmtree(path, ignore_errors=True)
    for path in (layout.kubeconfig, layout.state):
        path.unlink(missing_ok=True)


def _clear(layout: Layout) -> None:
    """Remove the files of an earlier cluster in the same directory."""
    down(layout.directory)
    for path in (layout.logs, layout.nodes):
        shutil.rmtree(path, ignore_errors=True)
    layout.audit_log.unlink(missing_ok=True)


def _state(*, gpu: str, real_node: bool, node_object_bytes: int | None, controllers: bool) -> State:
    apiserver, etcd, peer, kwok, simnode = free_ports(5)
    host = realnode.service_address() if real_node else "127.0.0.1"
    return State(
        host=host,
        service_range=f"{host.removesuffix('1')}0/24" if real_node else "10.96.0.0/24",
        apiserver_port=443 if real_node else apiserver,
        etcd_port=etcd,
        etcd_peer_port=peer,
        kwok_port=kwok,
        simnode_port=simnode,
        gpu=gpu,
        node_object_bytes=node_object_bytes,
        real_node=realnode.NAME if real_node else None,
        controllers=controllers,
    )


def _specs(count: int, gpu: str, outputs: Sequence[bytes]) -> Iterator[NodeSpec]:
    """The nodes to create, as an iterator: a thousand outputs do not fit well into memory."""
    for index in range(count):
        name = objects.node_name(index)
        yield NodeSpec(
            name=name,
            xml=outputs[index % len(outputs)] if outputs else generate(gpu, node=name).encode(),
            instance_type=MODELS[gpu].instance_type,
        )


def _start(
    layout: Layout,
    state: State,
    binaries: Binaries,
    specs: Iterator[NodeSpec],
    count: int,
    progress: Progress,
) -> None:
    state.save(layout)
    progress(f"starting the control plane in {layout.directory}")
    control = ControlPlane(layout=layout, state=state, binaries=binaries)
    control.prepare()
    control.start()
    client = controlplane.client_for(layout, state)
    simulation = Simulation(layout=layout, state=state, client=client)
    simulation.start(binaries)
    for name in (objects.TARGET_NAMESPACE, objects.OPERATOR_NAMESPACE):
        client.send(Request("POST", "/api/v1/namespaces", objects.namespace(name)))
    _install_crds(client)
    progress(f"creating {count} simulated nodes")
    if state.controllers:
        simulation.create(specs)
        simulation.create_device_plugin()
        simulation.wait_ready(count)
    else:
        client.send(Request("POST", _ACCOUNTS, standing.service_account()))
        simulation.create(specs)
    if state.real_node:
        progress("starting the real node")
        RealNode(layout=layout, client=client).start(binaries)
    progress(f"ready: {state.server}")


def _install_crds(client: ApiClient) -> None:
    for manifest in crd_manifests():
        client.send(Request("POST", _CRDS, manifest))
        name = manifest["metadata"]["name"]

        def established(name: str = name) -> bool:
            conditions = client.get(f"{_CRDS}/{name}").get("status", {}).get("conditions")
            return any(
                one["type"] == "Established" and one["status"] == "True"
                for one in conditions or ()  # null until the first is written
            )

        wait_for(f"the API server to know {name}", established, timeout=30)
        spec = manifest["spec"]
        version = spec["versions"][0]["name"]
        path = f"/apis/{spec['group']}/{version}/{spec['names']['plural']}?limit=1"
        # An established CRD may not be served yet: 404, then 429 "storage is (re)initializing".
        first = Request("GET", path, tolerate=(404, 429, 503))

        def served(first: Request = first) -> bool:
            return client.send(first) is not None

        wait_for(f"the API server to serve {name}", served, timeout=30)
