"""A local cluster of simulated GPU nodes for a benchmark, and what its servers did."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from gpuid_operator.localcluster import LocalCluster, processes
from gpuid_operator.localcluster.client import MERGE, Request
from gpuid_operator.localcluster.layout import Layout, write_atomically
from gpuid_operator.localcluster.nodes import OPERATOR_NAMESPACE
from tests.bench import usage
from tests.bench.api import INVENTORIES, NODES, Reader
from tests.bench.audit import AuditLog
from tests.bench.errors import BenchError
from tests.bench.helpers import Helper
from tests.bench.listing import PREFIX
from tests.bench.programs import Access, Program, Running
from tests.support.quarantines import QUARANTINES, manifest

NODE_OBJECT_BYTES: Final = 25_000
"""The size of a Node object of a real cluster, most of it the list of its images."""
GPUS: Final = 8
"""Per node."""
ACCOUNT: Final = "bench"
_QUIET_WITHIN: Final = 600.0
_SLOW: Final = """#!/bin/sh
# nvidia-smi of a simulated node: it takes as long as a real one.
read -r uptime rest < /proc/uptime
echo "$uptime" >> "$GPUID_NODE_DIR/exec.log"
sleep {seconds}
exec cat "$GPUID_NODE_DIR/nvidia-smi.xml"
"""

Progress = Callable[[str], None]


class SimulatedFleet:
    """The nodes, and everything that a program left at them."""

    def __init__(self, cluster: LocalCluster, byte_counter: Helper) -> None:
        self.cluster = cluster
        self.reader = Reader(cluster)
        self.nodes = len(cluster.node_names)
        self.user = f"system:serviceaccount:{OPERATOR_NAMESPACE}:{ACCOUNT}"
        self._byte_counter = byte_counter
        self._access = Access(
            cluster.directory / "serviceaccount",
            host=str(urlsplit(cluster.server).hostname),
            port=byte_counter.greeting["port"],
        )
        self._runs = 0

    @classmethod
    @contextmanager
    def up(
        cls, nodes: int, *, progress: Progress, quarantines: int = 0
    ) -> Iterator[SimulatedFleet]:
        """A fleet whose nodes are ready and whose controllers have nothing to do any more.

        The `quarantines` are of parts that no node has: a fleet has few that match.
        """
        began = time.monotonic()
        with ExitStack() as stack:
            directory = Path(tempfile.mkdtemp(prefix="gpuid-bench-"))
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            cluster = LocalCluster.up(
                directory / "cluster",
                nodes=nodes,
                node_object_bytes=NODE_OBJECT_BYTES,
                progress=progress,
            )
            stack.callback(cluster.down)
            port = str(urlsplit(cluster.server).port)
            fleet = cls(cluster, stack.enter_context(Helper("byte_counter", port)))
            fleet._create_account()
            cluster.client.send_all(_quarantine(number) for number in range(quarantines))
            fleet.wait_until_quiet()
            progress(f"a fleet of {nodes} nodes after {time.monotonic() - began:.0f} s")
            yield fleet

    def start(self, program: Program, environment: Mapping[str, str]) -> Running:
        """Start a program with only these variables and those that a pod has."""
        self._runs += 1
        log = self.cluster.directory / f"{program.name}-{self._runs}.log"
        return Running(program, self._access, log=log, environment=environment)

    def audit_log(self) -> AuditLog:
        """Counts the requests of the programs from now on."""
        return AuditLog(self.cluster.audit_log, user=self.user)

    def bytes_from_server(self) -> int:
        """Bytes that the programs received from the API server so far, with TLS."""
        return int(self._byte_counter.ask("bytes")["from_server"])

    def bytes_to_server(self) -> int:
        """Bytes that the programs sent to the API server so far, with TLS."""
        return int(self._byte_counter.ask("bytes")["to_server"])

    @property
    def server_pid(self) -> int:
        identity = processes.find(Layout(self.cluster.directory), "kube-apiserver")
        if identity is None:
            raise BenchError("the API server of the benchmark does not run")
        return identity.pid

    def server_cpu(self) -> float:
        """Seconds of CPU time of the API server so far."""
        return usage.cpu_seconds(self.server_pid)

    def undo(self) -> None:
        """Remove everything that a program wrote: inventories, Node labels, Events, the lease.

        Without it the program that runs second has less to write than the first.
        """
        client = self.cluster.client
        # The API server gives up after a minute, in which it deletes some thousand.
        while self.reader.metadata(INVENTORIES):
            client.send(Request("DELETE", INVENTORIES, tolerate=(504,)), timeout=300)
        client.send(Request("DELETE", "/api/v1/namespaces/default/events"), timeout=300)
        leases = f"/apis/coordination.k8s.io/v1/namespaces/{OPERATOR_NAMESPACE}/leases"
        client.send(Request("DELETE", leases), timeout=60)
        client.send_all(self._without_labels())
        left = [one["name"] for one in self.reader.metadata(INVENTORIES)]
        labelled = [request.path for request in self._without_labels()]
        if left or labelled:
            raise BenchError(f"{len(left)} inventories and {len(labelled)} labelled nodes are left")
        self.wait_until_quiet()

    def _without_labels(self) -> Iterator[Request]:
        for metadata in self.reader.metadata(NODES):
            labels = [key for key in metadata.get("labels", ()) if key.startswith(PREFIX)]
            if labels:
                body = {"metadata": {"labels": dict.fromkeys(labels)}}
                yield Request("PATCH", f"{NODES}/{metadata['name']}", body, content_type=MERGE)

    def wait_until_quiet(self) -> None:
        """Wait until the controllers have handled the nodes, so that their work is not measured."""
        before, until = None, time.monotonic() + _QUIET_WITHIN
        while before != (now := self._versions()):
            if time.monotonic() > until:
                raise BenchError(f"the nodes still change after {_QUIET_WITHIN:.0f} s")
            before = now
            time.sleep(3.0)

    def _versions(self) -> set[str]:
        return {one["resourceVersion"] for one in self.reader.metadata(NODES)}

    @contextmanager
    def slow_reads(self, seconds: float) -> Iterator[None]:
        """While it lasts, each nvidia-smi sleeps first, in a process that costs nothing."""
        program = self.cluster.directory / "bin" / "nvidia-smi"
        before = program.read_bytes()
        write_atomically(program, _SLOW.format(seconds=seconds).encode(), mode=0o755)
        try:
            yield
        finally:
            write_atomically(program, before, mode=0o755)

    def _create_account(self) -> None:
        """The service account of the programs, with every right, and the files of its pods.

        The API server gives its requests the priority of a service account's; the administrator's
        are exempt.
        """
        token = service_account(self.cluster, OPERATOR_NAMESPACE, ACCOUNT)
        folder = self._access.folder
        folder.mkdir()
        (folder / "token").write_text(token)
        (folder / "ca.crt").write_bytes(self.cluster.ca_file.read_bytes())
        (folder / "namespace").write_text(OPERATOR_NAMESPACE)
        config: dict[str, Any] = json.loads(self.cluster.kubeconfig.read_text())
        server = f"https://{self._access.host}:{self._access.port}"
        config["clusters"][0]["cluster"]["server"] = server
        config["users"][0]["user"] = {"token": token}
        (folder / "kubeconfig").write_text(json.dumps(config))


def _quarantine(number: int) -> Request:
    part = {"serial": f"of-no-node-{number}"}
    return Request("POST", QUARANTINES, manifest(f"rma-{number}", part))


def service_account(cluster: LocalCluster, namespace: str, name: str) -> str:
    """Create a service account that may do everything; its token, good for a day."""
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    client = cluster.client
    client.send(Request("POST", accounts, {"metadata": {"name": name}}))
    binding = {
        "metadata": {"name": f"{namespace}-{name}"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "cluster-admin",
        },
        "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": name}],
    }
    bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    client.send(Request("POST", bindings, binding))
    wanted = {"spec": {"expirationSeconds": 86_400}}
    answer = client.send(Request("POST", f"{accounts}/{name}/token", wanted))
    return str(answer["status"]["token"])
