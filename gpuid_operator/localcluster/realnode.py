"""One real node: a kubelet and a containerd of its own, as root, with everything under one folder.

It runs real containers, so it shows what KWOK only plays: exec as a runtime does it, users,
read-only roots, seccomp. Pods on it reach the API server with their service account when they use
the host's network.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml

from gpuid_operator.localcluster import controlplane, images, kernel, processes
from gpuid_operator.localcluster.binaries import Binaries
from gpuid_operator.localcluster.client import ApiClient, Request
from gpuid_operator.localcluster.errors import LocalClusterError, RealNodeUnavailable, ServerError
from gpuid_operator.localcluster.layout import Layout, write_atomically
from gpuid_operator.localcluster.ports import free_ports, is_free
from gpuid_operator.localcluster.waiting import wait_for

NAME: Final = "real-node"
_PAUSE: Final = "gpuid.local/pause:1"
_PROGRAMS: Final = ("containerd", "containerd-shim-runc-v2", "ctr", "runc")
_SOCKET_LIMIT: Final = 100  # the kernel's is 108; containerd appends ".ttrpc"
_FIXED: Final = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/run/containerd")
"""Paths that are compiled into the kubelet and containerd. Both run in a mount namespace of their
own in which these are folders of the cluster; with the last process all of its mounts are gone.
Mounts propagate there as on a node, into containers that ask for it, but not from or to the
machine."""
_IN_NAMESPACE: Final = """
mount --make-rshared / || exit 1
while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit 1; shift 2; done
shift
exec "$@"
"""


def check() -> None:
    """Raise RealNodeUnavailable, with everything that is missing, where it cannot run."""
    missing = []
    if sys.platform != "linux":
        missing.append("Linux")
    elif os.geteuid() != 0:
        missing.append("root (run it with sudo, or in a container with enough rights)")
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    if absent:
        missing.append(f"{', '.join(absent)} (apt-get install containerd runc)")
    if (
        not missing
        and subprocess.run(
            ["unshare", "--mount", "true"], capture_output=True, check=False
        ).returncode
    ):
        missing.append("the right to mount (CAP_SYS_ADMIN)")
    if missing:
        raise RealNodeUnavailable(
            "the real node runs a kubelet and a containerd of its own; missing here: "
            + "; ".join(missing)
        )


def service_address() -> str:
    """A loopback address on which pods with the host's network find the API server at 443.

    There is no kube-proxy, so the address of the service `kubernetes` has to answer by itself.
    """
    for index in range(256):
        if is_free(address := f"127.96.{index}.1", 443):
            return address
    raise RealNodeUnavailable("port 443 is taken on all of 127.96.*.1, the real node needs one")


class RealNode:
    """The kubelet and the containerd of one cluster."""

    def __init__(self, *, layout: Layout, client: ApiClient) -> None:
        self._layout = layout
        self._client = client
        self._folder = layout.real_node

    @property
    def _socket(self) -> Path:
        return self._folder / "containerd.sock"

    def start(self, binaries: Binaries) -> None:
        """Start containerd and the kubelet; returns when the node is Ready."""
        if len(str(self._socket)) > _SOCKET_LIMIT:
            raise RealNodeUnavailable(
                f"{self._socket} is too long for a socket; use a directory with a shorter path"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write_network()
        self._start_containerd()
        pause = images.build_image(
            self._folder / "pause.tar",
            name=_PAUSE,
            files={"/pause": binaries["pause"]},
            command=["/pause"],
        )
        self.import_image(pause)
        self._start_kubelet(binaries)
        self._wait("the real node to be Ready", self._is_ready, timeout=90)

    def import_image(self, tar: Path) -> None:
        """Import an image into the node; pods use it with imagePullPolicy Never."""
        done = self._ctr("images", "import", str(tar))
        if done.returncode != 0:
            raise LocalClusterError(
                f"failed to import the image {tar} into containerd: {done.stderr.strip()}"
            )

    def _ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ctr", "--address", str(self._socket), "--namespace", "k8s.io", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    def _write_network(self) -> None:
        """A network plugin that gives a pod no more than its own loopback device."""
        plugins, config = self._folder / "cni" / "bin", self._folder / "cni" / "conf"
        plugins.mkdir(parents=True, exist_ok=True)
        config.mkdir(parents=True, exist_ok=True)
        answer = {
            "cniVersion": "0.4.0",
            "interfaces": [{"name": "eth0", "sandbox": "pod"}],
            "ips": [{"version": "4", "address": "127.0.0.1/8", "interface": 0}],
        }
        versions = {"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"]}
        script = (
            "#!/bin/sh\n"
            'case "$CNI_COMMAND" in\n'
            f"ADD) echo '{json.dumps(answer)}' ;;\n"
            f"VERSION) echo '{json.dumps(versions)}' ;;\n"
            "esac\n"
        )
        for name in ("gpuid-none", "loopback"):
            write_atomically(plugins / name, script.encode(), mode=0o755)
        network = {"cniVersion": "0.4.0", "name": "none", "plugins": [{"type": "gpuid-none"}]}
        write_atomically(config / "10-none.conflist", json.dumps(network).encode())

    def _start_containerd(self) -> None:
        folder = self._folder
        cri = '[plugins."io.containerd.grpc.v1.cri"'
        config = f"""\
version = 2
root = "{folder}/containerd"
state = "{folder}/state"
[grpc]
address = "{self._socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
{cri}]
cdi_spec_dirs = ["{folder}/cdi"]
sandbox_image = "{_PAUSE}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
{cri}.cni]
bin_dir = "{folder}/cni/bin"
conf_dir = "{folder}/cni/conf"
{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
{cri}.containerd.runtimes.runc.options]
Root = "{folder}/runc"
SystemdCgroup = false
"""
        path = folder / "containerd.toml"
        write_atomically(path, config.encode())
        binds = []
        for target in _FIXED:
            source = folder / "host" / target.strip("/")
            source.mkdir(parents=True, exist_ok=True)
            binds += [str(source), target]
        kernel.make_mount_points(_FIXED, folder / "created.json")
        namespace = ["unshare", "--mount", "--propagation", "private"]
        inner = ["sh", "-c", _IN_NAMESPACE, "sh", *binds, "--"]
        processes.start(
            self._layout, "containerd", [*namespace, *inner, "containerd", f"--config={path}"]
        )
        self._wait("containerd", lambda: self._ctr("version").returncode == 0, server="containerd")

    def _start_kubelet(self, binaries: Binaries) -> None:
        folder = self._folder
        port, health = free_ports(2, host="0.0.0.0")
        kernel.create_cgroup(_cgroup(self._layout))
        limits = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available")
        config: dict[str, Any] = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "port": port,
            "healthzPort": health,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(self._layout.ca_file)},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "podLogsDir": str(folder / "pod-logs"),
            "volumePluginDir": str(folder / "volume-plugins"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{_cgroup(self._layout)}",
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "localStorageCapacityIsolation": False,
            # No evictions in tests, however full the disk of this machine is.
            "evictionHard": dict.fromkeys(limits, "0%"),
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "resolvConf": "",
        }
        path = folder / "kubelet.yaml"
        write_atomically(path, yaml.safe_dump(config).encode())
        identity = hashlib.sha256(str(self._layout.directory).encode()).hexdigest()[:17]
        containerd = processes.find(self._layout, "containerd")
        if containerd is None:
            raise ServerError(f"failed to find the pid file of containerd in {self._layout.run}")
        processes.start(
            self._layout,
            "kubelet",
            [
                *("nsenter", f"--target={containerd.pid}", "--mount"),
                binaries["kubelet"],
                f"--config={path}",
                f"--kubeconfig={controlplane.kubeconfig(self._layout, 'kubelet')}",
                f"--root-dir={folder / 'kubelet'}",
                f"--cert-dir={folder / 'kubelet' / 'pki'}",
                f"--hostname-override={NAME}",
                f"--provider-id=aws:///us-east-1a/i-{identity}",
            ],
        )

    def _is_ready(self) -> bool:
        node = self._client.send(Request("GET", f"/api/v1/nodes/{NAME}", tolerate=(404,)))
        conditions = node["status"].get("conditions", ()) if node else ()
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _wait(
        self,
        what: str,
        condition: Callable[[], bool],
        *,
        timeout: float = 30,
        server: str = "kubelet",
    ) -> None:
        def alive_and_true() -> bool:
            if not processes.is_running(self._layout, server):
                tail = controlplane.log_tail(self._layout, server)
                raise ServerError(f"failed to wait for {what}: {server} has ended. {tail}")
            return condition()

        wait_for(
            what,
            alive_and_true,
            timeout=timeout,
            hint=lambda: controlplane.log_tail(self._layout, server),
        )


def end(layout: Layout) -> None:
    """Kill the processes in containers, and remove files outside of the directory of the cluster.

    Called after the end of the kubelet and containerd: containers outlive them.
    """
    kernel.remove_cgroup(_cgroup(layout))
    if layout.ours:
        kernel.remove_mount_points(layout.real_node / "created.json")
        shutil.rmtree(layout.real_node, ignore_errors=True)


def _cgroup(layout: Layout) -> str:
    return "gpuid-" + hashlib.sha256(str(layout.directory).encode()).hexdigest()[:12]
